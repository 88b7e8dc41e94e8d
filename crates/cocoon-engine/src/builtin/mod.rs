//! Engines that need no model server.
