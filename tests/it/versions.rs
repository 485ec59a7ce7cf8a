//! Versions of the workspace: when they are taken, and what is in them.
