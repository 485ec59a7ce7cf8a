//! A coding agent behind one port. The map of the house:
//!
//! * [`config`]: flags and environment.
//! * [`server`]: one router for REST, gRPC and gRPC-Web; its layers, listeners and end.
//! * `rest`, `grpc`: the two doors. A handler parses, calls one verb of the domain, and renders.
//! * `requests`: what the log and the metrics tell of each request.
//! * [`domain`]: the one room behind both; it knows no transport.
//! * [`keeper`]: the small process below which each command of the agent runs.
//! * [`serve`], [`init`], [`conceal`]: the process: its log and runtime, as the first one of a container, without keys in
//!   sight.
//!
//! `main -> server -> {rest, grpc} -> domain`; the doors never name each other. ARCHITECTURE.md has the rest.

pub mod conceal;
pub mod config;
pub mod domain;
mod grpc;
pub mod init;
pub mod keeper;
mod requests;
mod rest;

pub mod serve;
pub mod server;

/// The OpenAPI document, as `/openapi.json` serves it and `openapi/openapi.json` keeps it.
pub fn openapi() -> String {
    rest::openapi::document()
}
