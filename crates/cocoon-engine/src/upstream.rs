//! Any OpenAI-style HTTP server as an engine.
