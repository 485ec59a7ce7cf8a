//! Places in the log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place in the log: the epoch that the event was written in, and its number. Clients take it as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Random, drawn at each start of the server.
    pub epoch: u64,
    /// The last event considered.
    pub seq: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{:x}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, seq) = text.strip_prefix('e').and_then(|rest| rest.split_once('-')).ok_or(())?;
        let canonical = |digits: &str| !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
        if !canonical(epoch) || !canonical(seq) {
            return Err(());
        }
        Ok(Self { epoch: u64::from_str_radix(epoch, 16).map_err(drop)?, seq: seq.parse().map_err(drop)? })
    }
}

/// Why a stream could not go on from the cursor that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The cursor is of another log.
    OtherLog,
    /// The events around it were lost with the machine's power.
    Lost,
    /// The log no longer holds what comes after it.
    Expired,
}

impl ResyncReason {
    /// The reason as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherLog => "other_log",
            Self::Lost => "lost",
            Self::Expired => "expired",
        }
    }
}
