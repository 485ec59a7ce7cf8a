//! Who calls, and what they may do. The doors say what a client has shown; each verb's scope stands here.

use std::{future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

mod tickets;
mod tokens;

pub use tickets::{CreateTicket, Ticket, TicketUse};
pub(super) use tickets::{IDLE as TICKET_IDLE, LIFE as TICKET_LIFE, Tickets};
pub(super) use tokens::Tokens;
pub use tokens::{AccessSettings, TokenHash};

use super::{
    OpenCode,
    error::{Code, Error, Result},
};

tokio::task_local! {
    /// Who called, like the span that log lines belong to. What runs on by itself, such as a turn, is nobody's.
    static CALLER: Caller;
}

/// What a token may be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Session, messages, events, turns, models, status.
    #[serde(rename = "read")]
    Read,
    /// Sending messages; also cancel, model, clear.
    #[serde(rename = "messages:write")]
    MessagesWrite,
    /// Reading files, changes and versions.
    #[serde(rename = "files:read")]
    FilesRead,
    /// Writing, deleting and reverting files.
    #[serde(rename = "files:write")]
    FilesWrite,
    /// Answering permission requests, and loosening the permission mode.
    #[serde(rename = "permissions:reply")]
    PermissionsReply,
    /// Reset, metrics.
    #[serde(rename = "admin")]
    Admin,
}

/// What an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Not even a token: probes.
    Nothing,
    /// Any token.
    Token,
    /// A token with this scope.
    Scope(Scope),
}

/// What each operation takes, by its verb: the one table for all doors, and for what they document. What is not in it takes
/// the scope `admin`, and a test fails.
pub fn needs(verb: &str) -> Option<Needs> {
    Some(match verb {
        "health" | "livez" | "readyz" => Needs::Nothing,
        "get_capabilities" | "create_ticket" => Needs::Token,
        "get_session"
        | "get_session_stats"
        | "list_ledger"
        | "list_messages"
        | "stream_messages"
        | "get_message"
        | "get_message_part"
        | "list_turns"
        | "get_turn"
        | "stream_events"
        | "list_events"
        | "get_agent_status"
        | "list_processes"
        | "list_permissions"
        | "evaluate_permission"
        | "list_models" => Needs::Scope(Scope::Read),
        "update_session" | "send_message" | "clear_messages" | "cancel_agent" | "set_model" | "end_process" => {
            Needs::Scope(Scope::MessagesWrite)
        }
        "list_files" | "read_file" | "get_file_changes" | "list_versions" | "read_raw" | "head_raw" => {
            Needs::Scope(Scope::FilesRead)
        }
        "write_file" | "delete_file" | "revert_files" | "write_raw" | "delete_raw" => Needs::Scope(Scope::FilesWrite),
        "reply_permission" => Needs::Scope(Scope::PermissionsReply),
        "reset_session" | "metrics" => Needs::Scope(Scope::Admin),
        _ => return None,
    })
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

/// Who calls. Clones are the same caller.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Who>);

#[derive(Debug)]
struct Who {
    /// The id of the token; none where no token was shown.
    token_id: Option<Arc<str>>,
    scopes: Scopes,
    /// Whether a token was asked for.
    is_known: bool,
    /// Cancelled when the token is good no more.
    ended: CancellationToken,
}

/// Why a request is not let in, in the words of no door. A door makes its own answer of it.
#[derive(Clone, Debug)]
pub struct Refusal {
    code: Code,
    detail: &'static str,
    retry_after: Option<Duration>,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::MessagesWrite, Self::FilesRead, Self::FilesWrite, Self::PermissionsReply, Self::Admin];

    /// The name in settings and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::MessagesWrite => "messages:write",
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::PermissionsReply => "permissions:reply",
            Self::Admin => "admin",
        }
    }
}

impl Scopes {
    /// Every scope.
    pub fn all() -> Self {
        Self::of(&Scope::ALL)
    }

    /// These scopes.
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |set, scope| set | 1 << (*scope as u8)))
    }

    /// Whether it is one of them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & 1 << (scope as u8) != 0
    }
}

impl Caller {
    /// Who shows a token.
    fn with_token(id: &str, scopes: Scopes) -> Self {
        Self(Arc::new(Who { token_id: Some(id.into()), scopes, is_known: true, ended: CancellationToken::new() }))
    }

    /// Anybody, where nobody is asked for a token.
    pub fn anybody() -> Self {
        let ended = CancellationToken::new();
        Self(Arc::new(Who { token_id: None, scopes: Scopes::all(), is_known: false, ended }))
    }

    /// Who has shown no token, where one is asked for: probes and the page need none.
    pub fn without_token() -> Self {
        let ended = CancellationToken::new();
        Self(Arc::new(Who { token_id: None, scopes: Scopes::default(), is_known: false, ended }))
    }

    /// Who makes the call that is at work; none in what runs on by itself.
    pub fn current() -> Option<Self> {
        CALLER.try_with(Self::clone).ok()
    }

    /// Does something as this caller.
    pub async fn calling<T>(self, work: impl Future<Output = T>) -> T {
        CALLER.scope(self, work).await
    }

    /// Does something as whoever calls now.
    pub(super) async fn as_current<T>(caller: Option<Self>, work: impl Future<Output = T>) -> T {
        match caller {
            Some(caller) => caller.calling(work).await,
            None => work.await,
        }
    }

    /// The id of its token.
    pub fn token_id(&self) -> Option<&Arc<str>> {
        self.0.token_id.as_ref()
    }

    /// Refuses what it may not do: `permission_denied`, which names the scope.
    pub fn check(&self, needs: Needs) -> Result<()> {
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Token if self.0.is_known || self.0.scopes == Scopes::all() => Ok(()),
            Needs::Token => Err(Refusal::unauthenticated().into()),
            Needs::Scope(scope) if self.0.scopes.has(scope) => Ok(()),
            Needs::Scope(scope) => {
                let detail = format!("this takes a token with the scope \"{}\"", scope.as_str());
                Err(Error::new(Code::PermissionDenied, detail))
            }
        }
    }

    /// Whether its token says that it may answer permission requests: where nobody is asked for tokens, nobody's does.
    pub(super) fn may_reply(&self) -> bool {
        self.0.is_known && self.0.scopes.has(Scope::PermissionsReply)
    }

    /// Cancelled when its token is good no more.
    pub fn ended(&self) -> &CancellationToken {
        &self.0.ended
    }
}

impl Refusal {
    /// For what; `detail` says what the caller can do.
    pub fn new(code: Code, detail: &'static str) -> Self {
        Self { code, detail, retry_after: None }
    }

    /// The same to whoever shows no token or a wrong one.
    pub fn unauthenticated() -> Self {
        Self::new(Code::Unauthenticated, "this takes a valid token, as `Authorization: Bearer <token>`")
    }

    /// It may be let in after this.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(refusal.code, refusal.detail);
        match refusal.retry_after {
            Some(after) => error.retry_after(after),
            None => error,
        }
    }
}

impl OpenCode {
    /// Whether callers have to show a token.
    pub fn asks_for_tokens(&self) -> bool {
        self.0.tokens.are_asked_for()
    }

    /// Who shows this token; none where it is not, or no more, a good one.
    pub fn caller(&self, token: &[u8]) -> Option<Caller> {
        self.0.tokens.caller(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of() {
        for scope in Scope::ALL {
            let only = Scopes::of(&[scope]);
            assert_eq!(Scope::ALL.map(|other| only.has(other)), Scope::ALL.map(|other| other == scope));
            assert!(Scopes::all().has(scope) && !Scopes::default().has(scope));
            let name = serde_json::to_value(scope).expect("JSON");
            assert_eq!(name, scope.as_str(), "one name everywhere");
        }
    }
}
