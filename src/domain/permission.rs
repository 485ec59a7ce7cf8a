//! Permissions: what the agent may do without asking, asking for the rest, and the answers.

mod conditions;
mod evaluate;
mod gaps;
mod grants;
mod heredoc;
mod judge;
mod readers;
mod requests;
mod rules;
mod shell;
#[cfg(test)]
mod tests;
mod word;
mod wrappers;

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

pub use self::evaluate::{EvaluatePermission, PermissionEvaluation};
pub(super) use self::{
    evaluate::rules_of,
    grants::{Grant, shown},
    judge::{Access, Authority, Judgement},
    requests::{Open, Presence, Requests, Resolution},
    rules::{Hidden, Rule},
};
use super::{
    OpenCode, Read,
    access::Caller,
    error::{Code, Error, Result},
    id::{MessageId, PermissionId, ToolCallId, TurnId},
    list::{List, Pagination},
    store::{Batch, PermissionRow},
};

/// What the agent may do without asking, from loose to strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PermissionMode {
    /// All that no rule denies.
    Auto,
    /// Reading is free, editing inside the workspace is free, commands ask unless they only read or a rule allows them.
    Ask,
    /// Reading is free, and so are commands that only read; all else is denied without asking.
    ReadOnly,
}

/// What rules and mode say of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PermissionVerdict)]
pub enum Verdict {
    /// It would run.
    Allow,
    /// It would be asked for.
    Ask,
    /// It would not run.
    Deny,
}

/// What permissions are set to.
#[derive(Clone, Debug)]
pub struct PermissionSettings {
    /// The mode of sessions that have none of their own.
    pub mode: PermissionMode,
    /// The operator's rules.
    pub rules: Option<PathBuf>,
    /// How long a request waits for an answer.
    pub timeout: Duration,
    /// After how long without a client nobody is waited for.
    pub absence: Duration,
    /// What becomes of a request that nobody answers: `deny` or `stop`.
    pub default: PermissionDecision,
    /// What replies and loosening take.
    pub reply_token: SecretString,
}

/// What a client shows to reply or to loosen the mode.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplyToken(String);

/// A tool call that waits for a permission, or did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Permission {
    /// Its id.
    pub id: PermissionId,
    /// The turn that waits.
    pub turn_id: TurnId,
    /// The assistant message that makes the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Index of the call's part in that message, which has the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_index: Option<u32>,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// The tool.
    pub tool_name: String,
    /// What the call would do and why it is asked for, for people.
    pub description: String,
    /// What `allow_session` would allow from now on, just this and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The decision that holds where nobody answers by the deadline, or nobody is there.
    pub default_decision: PermissionDecision,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Until when an answer is waited for.
    pub deadline: Timestamp,
    /// The decision; absent while the request waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<PermissionDecision>,
    /// By whom or what; absent while the request waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<PermissionResolver>,
    /// What the client said about its decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When; absent while the request waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
}

/// The answer to a permission request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PermissionDecision {
    /// This call only.
    AllowOnce,
    /// This call and what is shown as `grant`, until the session is reset.
    AllowSession,
    /// Not this call: the model is told why, and the turn goes on.
    Deny,
    /// Not this call, and the turn ends with `permission_denied`.
    Stop,
}

/// An answer to a permission request.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplyPermission {
    /// The decision.
    #[schema(inline)]
    pub decision: PermissionDecision,
    /// What the model is told of a denial, at most 1,000 characters.
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
    /// What the client shows.
    #[serde(skip)]
    pub token: Option<ReplyToken>,
}

/// Most characters of a reason.
const MAX_REASON: usize = 1_000;

/// Who or what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PermissionResolver {
    /// A client's answer.
    Client,
    /// Nobody answered in time: the request's default holds.
    Timeout,
    /// The turn was cancelled.
    Cancel,
    /// The server was stopped or died.
    Interruption,
    /// Nobody was there to answer: the request's default holds.
    NoClient,
    /// A rule, a grant, or the list of commands that only read; without asking.
    Rule,
    /// The mode; without asking.
    Mode,
}

#[cfg(test)]
impl PermissionSettings {
    pub(super) fn for_tests() -> Self {
        let (timeout, absence) = (Duration::from_secs(300), Duration::from_secs(10));
        Self {
            mode: PermissionMode::Auto,
            rules: None,
            timeout,
            absence,
            default: PermissionDecision::Deny,
            reply_token: String::from("a-token").into(),
        }
    }
}

impl PermissionMode {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ask => "ask",
            Self::ReadOnly => "read_only",
        }
    }
}

impl std::str::FromStr for PermissionMode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Auto, Self::Ask, Self::ReadOnly];
        all.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| "is none of auto, ask, read_only".into())
    }
}

impl From<Authority> for PermissionResolver {
    fn from(by: Authority) -> Self {
        match by {
            Authority::Rule => Self::Rule,
            Authority::Mode => Self::Mode,
        }
    }
}

impl ReplyToken {
    /// What a client sent.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for ReplyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl OpenCode {
    /// The requests that wait for an answer, oldest first. Reading them is being there.
    pub async fn list_permissions(&self) -> Result<List<Permission>> {
        let _here = self.0.requests.presence().enter();
        let Read { value, as_of } = self.read(|snapshot| snapshot.open_permissions()).await?;
        let total = value.len() as u64;
        let limit = u32::try_from(total).unwrap_or(u32::MAX);
        let pagination = Pagination { total, limit, offset: 0, next_cursor: None, has_more: false };
        Ok(List { items: value, pagination, as_of })
    }

    /// Answers a request. The first answer wins.
    ///
    /// `permission_denied`: without the reply token. `not_found`: there is no such request. `already_resolved`: it was
    /// answered before.
    pub async fn reply_permission(&self, id: &str, wish: ReplyPermission) -> Result<Read<Permission>> {
        let ReplyPermission { decision, reason, token } = wish;
        self.check_reply_token(token.as_ref(), "to answer a permission request")?;
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
            return Err(Error::field("reason", format!("must have at most {MAX_REASON} characters")));
        }
        let reason = reason.filter(|reason| !reason.trim().is_empty());
        let resolution = Resolution { decision, by: PermissionResolver::Client, reason };
        self.resolve_permission(PermissionId::from(id.to_owned()), resolution).await?;
        let (id, wanted) = (id.to_owned(), id.to_owned());
        let read = self.read(move |snapshot| snapshot.permission(&wanted)).await?;
        let value = read.value.ok_or_else(|| Error::not_found("permission request", id))?;
        Ok(Read { value, as_of: read.as_of })
    }

    /// Clients that come and go.
    pub(super) fn presence(&self) -> Presence {
        self.0.requests.presence().clone()
    }

    /// Refuses who would loosen the mode without the reply token.
    pub(super) fn check_mode(&self, wanted: PermissionMode, token: Option<&ReplyToken>) -> Result<()> {
        if wanted < self.0.requests.mode() {
            return self.check_reply_token(token, "to loosen the permission mode");
        }
        Ok(())
    }

    /// Refuses who may not answer requests; `what` is what it takes that for.
    pub(super) fn check_reply_token(&self, token: Option<&ReplyToken>, what: &str) -> Result<()> {
        if Caller::current().is_some_and(|caller| caller.may_reply()) {
            return Ok(());
        }
        // Of hashes, so that the time says nothing about where they differ.
        let hash = |text: &str| Sha256::digest(text.as_bytes());
        let expected = hash(self.0.settings.permissions.reply_token.expose_secret());
        let is_it = token.is_some_and(|token| {
            let given = hash(&token.0);
            given.iter().zip(expected.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
        });
        if is_it {
            return Ok(());
        }
        let detail = if self.asks_for_tokens() {
            format!("{what} takes a token with the scope \"permissions:reply\"")
        } else {
            format!("{what} takes the reply token (x-reply-token), which the server printed when it was started")
        };
        Err(Error::new(Code::PermissionDenied, detail))
    }

    /// Reads what the log has of permissions, and tells it the default mode.
    pub(super) async fn begin_permissions(&self) -> Result<()> {
        let default = self.0.settings.permissions.mode;
        let (grants, known) = self.read(|snapshot| snapshot.grants()).await?.value;
        self.0.requests.set_grants(grants);
        if known != Some(default)
            && let Err(error) = self.0.store.append(Batch::new().permission(PermissionRow::DefaultMode(default))).await
        {
            // It is kept to all the same; only what is shown of a session may be that of the last start.
            tracing::warn!(%error, "the permission mode could not be stored");
        }
        let session = self.read(|snapshot| snapshot.own_mode()).await?.value;
        self.0.requests.set_mode(session.unwrap_or(default));
        Ok(())
    }
}
