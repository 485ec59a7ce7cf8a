//! What this server can do, and every limit that a client may meet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OpenCode, Picodollars, access, follow, part, store, workspace};

/// What this server can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    /// The server's version.
    pub version: String,
    /// Features by name. One that is not there reads as false.
    pub features: BTreeMap<String, bool>,
    /// Every limit and window by name; the name ends in its unit, such as `_bytes`, `_s`, `_ms` or `_usd_micros`
    /// (millionths of a dollar), or is a count. What is not limited is absent.
    pub limits: BTreeMap<String, u64>,
    /// What the commands of the agent run in.
    pub sandbox: Sandbox,
}

/// What the commands of the agent run in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// The kind of sandbox; `none` where there is none.
    pub kind: String,
    /// Whether it holds now.
    pub active: bool,
}

/// Features that this version has. A name is never used for another thing.
const FEATURES: [&str; 16] = [
    "attachments",
    "budgets",
    "cancel_on_disconnect",
    "changes",
    "file_conditions",
    "idempotency_keys",
    "jobs",
    "ledger",
    "patches",
    "permissions",
    "processes",
    "queue",
    "revert",
    "steer",
    "tickets",
    "timeline",
];

/// Millionths of a dollar.
fn micros(limit: Option<Picodollars>) -> Option<u64> {
    u64::try_from(limit?.0 / 1_000_000).ok()
}

impl OpenCode {
    /// What this server can do, and its limits.
    pub fn get_capabilities(&self) -> Capabilities {
        let settings = &self.0.settings;
        let (turn, session) = (&settings.budgets.turn, &settings.budgets.session);
        let s = |time: std::time::Duration| Some(time.as_secs());
        let known = [
            ("retention_s", s(settings.retention.age)),
            ("retention_bytes", Some(settings.retention.bytes)),
            ("heartbeat_s", s(store::HEARTBEAT)),
            ("max_wait_s", Some(follow::MAX_WAIT as u64)),
            ("max_events_per_page", Some(follow::MAX_PAGE as u64)),
            ("max_items_per_page", Some(super::list::MAX_LIMIT.into())),
            ("max_part_bytes", Some(part::PART_LIMIT as u64)),
            ("max_files_per_page", Some(super::file::list::MAX_LIMIT.into())),
            ("max_parts", Some(super::send::MAX_PARTS as u64)),
            ("max_waiting_messages", Some(super::queue::MAX_WAITING as u64)),
            ("idempotency_key_s", Some(super::repeat::KEPT.as_secs())),
            ("permission_timeout_s", s(settings.permissions.timeout)),
            ("permission_absence_s", s(settings.permissions.absence)),
            ("max_version_file_bytes", Some(workspace::MAX_STORED)),
            ("versions_kept", Some(settings.versions.kept)),
            ("versions_bytes", Some(settings.versions.stored_bytes)),
            ("version_wait_s", s(settings.versions.wait)),
            ("version_s", s(settings.versions.time)),
            ("version_bytes", Some(settings.versions.bytes)),
            ("first_token_s", s(settings.providers.first_token)),
            ("between_tokens_s", s(settings.providers.between_tokens)),
            ("ticket_idle_s", s(access::TICKET_IDLE)),
            ("ticket_life_s", s(access::TICKET_LIFE)),
            ("turn_model_calls", turn.model_calls),
            ("turn_s", turn.seconds),
            ("turn_tokens", turn.tokens),
            ("turn_usd_micros", micros(turn.usd)),
            ("session_model_calls", session.model_calls),
            ("session_s", session.seconds),
            ("session_tokens", session.tokens),
            ("session_usd_micros", micros(session.usd)),
        ];
        let mut limits = settings.request_limits.clone();
        limits.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Capabilities {
            version: env!("CARGO_PKG_VERSION").into(),
            features: FEATURES.into_iter().map(|name| (name.to_owned(), true)).collect(),
            limits,
            sandbox: Sandbox { kind: "none".into(), active: false },
        }
    }
}
