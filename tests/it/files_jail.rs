//! The jail from outside.
