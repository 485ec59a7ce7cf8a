//! Through the wall: a real server on a free port, a real git workspace, a real log, a scripted model over HTTP.

mod crash;
mod cursors;
mod events;
mod frames;
mod support;
