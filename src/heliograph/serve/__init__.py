"""The studio: an HTTP server that plays live sessions, speaks the OpenAI Videos API and shows a page to steer them with."""
