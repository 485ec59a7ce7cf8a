//! What every test stands on: a real server in its own process, a client that believes nothing, a scripted model.

pub mod alike;
pub mod client;
pub mod dice;
pub mod doors;
pub mod edits;
pub mod files;
pub mod fold;
pub mod following;
pub mod grammar;
pub mod hold;
pub mod model;
pub mod permissions;
pub mod power;
pub mod processes;
pub mod repeats;
pub mod repo;
pub mod rpc;
pub mod server;
pub mod sse;
pub mod versions;
pub mod wire;

use std::time::Duration;

pub use serde_json::Value;

pub use self::{
    client::{Answer, Rest},
    doors::{Client, Door},
    following::Following,
    model::{Dialect, Ending, Gate, Model, Step, Tokens},
    server::{Server, Setup},
    sse::{Event, Sse, names},
};

/// How long a test waits for anything at all before it fails; long, since it only matters on bad days.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what has to come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("nothing within {PATIENCE:?}: {what}"),
    }
}

/// Asks again until it is so, for what has no event. `check` says what is still missing.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, asking).await
}

/// Runs a scenario with both dialects of the scripted model.
#[macro_export]
macro_rules! in_both_dialects {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod anthropic {
            $($(#[$doc])* #[tokio::test] async fn $name() { super::$name($crate::support::Dialect::Anthropic).await; })*
        }
        mod openai {
            $($(#[$doc])* #[tokio::test] async fn $name() { super::$name($crate::support::Dialect::OpenAi).await; })*
        }
    };
}

/// Runs a scenario through every door.
#[macro_export]
macro_rules! through_every_door {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod rest {
            $($(#[$doc])* #[tokio::test] async fn $name() { super::$name($crate::support::Door::Rest).await; })*
        }
        mod grpc {
            $($(#[$doc])* #[tokio::test] async fn $name() { super::$name($crate::support::Door::Grpc).await; })*
        }
        mod grpc_web {
            $($(#[$doc])* #[tokio::test] async fn $name() { super::$name($crate::support::Door::GrpcWeb).await; })*
        }
    };
}
