"""The studio: a server for live sessions, for the OpenAI Videos API, and for a page to steer them with."""
