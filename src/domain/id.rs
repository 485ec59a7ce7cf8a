//! Names of things: newtypes over a short text, so that one kind of id cannot be given for another.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id; those made later sort after those made earlier (UUID version 7).
            pub fn generate() -> Self {
                Self(format!(concat!($prefix, "_{}"), uuid::Uuid::now_v7().simple()).into())
            }

            /// The id as the API shows it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// Names a session; reset makes a new one.
    SessionId = "ses";
    /// Names a message.
    MessageId = "msg";
    /// Names a turn: a user's message and all that the agent does about it.
    TurnId = "turn";
    /// Names a tool call. It is the server's own and unique, whatever the provider sent.
    ToolCallId = "call";
    /// Names a permission request.
    PermissionId = "perm";
    /// Names a command that runs.
    ProcessId = "proc";
}

impl ProcessId {
    /// A new id of few letters, since models have to write it.
    pub(super) fn short() -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self::from(format!("proc_{}", &random[..8]))
    }
}
