"""Numbers read from frames alone, without any network: one file for each thing that is measured."""
