//! Through the wall: a real server on a free port, a real git workspace, a real log, a scripted model over HTTP.

#![allow(
    clippy::expect_used,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub,
    reason = "a test says what it expects and fails where it is not so"
)]

mod agent;
mod bad_calls;
mod bad_http;
mod bad_input;
mod baselines;
mod changes;
mod compaction;
mod crash;
mod cursors;
mod dialects;
mod events;
mod files;
mod files_jail;
mod files_races;
mod files_raw;
mod files_write;
mod frames;
mod full_disk;
mod growth;
mod ignored;
mod messages;
mod models;
mod openapi;
mod parity;
mod providers;
mod refusals;
mod revert;
mod session;
mod settings;
mod support;
mod tidy;
mod titles;
mod tools;
mod tools_bash;
mod tools_files;
mod traps;
mod turn_versions;
mod turns;
mod user_git;
mod versions;
mod views;
mod watching;
