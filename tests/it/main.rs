//! Through the wall: a real server on a free port, a real git workspace, a real log, a scripted model over HTTP.

#![allow(
    clippy::expect_used,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub,
    reason = "a test says what it expects and fails where it is not so"
)]

mod access;
mod access_holes;
mod access_tokens;
mod agent;
mod bad_calls;
mod bad_http;
mod bad_input;
mod bad_paths;
mod baselines;
mod budgets;
mod busy;
mod canaries;
mod change_tags;
mod changes;
mod compaction;
mod crash;
mod cursors;
mod damaged;
mod dialects;
mod drain;
mod events;
mod files;
mod files_jail;
mod files_races;
mod files_raw;
mod files_write;
mod frames;
mod full_disk;
mod full_disk_versions;
mod growth;
mod hearing;
mod ignored;
mod jobs;
mod keys;
mod kills;
mod ledger;
mod ledger_sums;
mod limits;
mod logs;
mod loops;
mod messages;
mod metrics;
mod models;
mod openapi;
mod parity;
mod permission_rules;
mod permissions;
mod permissions_ending;
mod permissions_token;
mod probes;
mod processes;
mod providers;
mod pruned;
mod refusals;
mod repeats;
mod revert;
mod rules;
mod session;
mod settings;
mod spending;
mod support;
mod survivors;
mod tickets;
mod tidy;
mod timeline;
mod titles;
mod tools;
mod tools_bash;
mod tools_files;
mod traps;
mod turn_versions;
mod turn_waits;
mod turns;
mod unreadable;
mod user_git;
mod versions;
mod views;
mod watching;
