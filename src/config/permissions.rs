//! The settings of permissions.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::access::{MIN_TOKEN, is_token};
use crate::domain::{PermissionDecision, PermissionMode, PermissionSettings};

/// What the agent may do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Permissions")]
pub struct Permissions {
    /// What the agent may do without asking: auto (all that no rule denies), ask (reading and editing in the workspace;
    /// commands ask unless they only read or a rule allows them), read_only (reading; all else is denied).
    #[arg(long, env = "OPENCODE_PERMISSION_MODE", default_value = "ask", global = true)]
    pub permission_mode: PermissionMode,
    /// A YAML or JSON file of rules: what is allowed, asked for or denied; outside of the workspace.
    #[arg(long, env = "OPENCODE_PERMISSION_RULES", global = true)]
    pub permission_rules: Option<PathBuf>,
    /// Seconds that a permission request waits for an answer.
    #[arg(long, env = "OPENCODE_PERMISSION_TIMEOUT", default_value_t = 300, global = true)]
    pub permission_timeout: u64,
    /// What becomes of a request that nobody answers: deny (the turn goes on), or stop (it ends).
    #[arg(long, env = "OPENCODE_PERMISSION_DEFAULT", default_value = "deny", global = true,
          value_parser = ["deny", "stop"])]
    pub permission_default: String,
    /// Seconds without a stream and without a look at the list of requests after which nobody is waited for.
    #[arg(long, env = "OPENCODE_PERMISSION_ABSENCE_SECONDS", default_value_t = 10, global = true)]
    pub permission_absence_seconds: u64,
    /// What replies to permission requests and loosening the mode take where nobody is asked for an API token. Default: made
    /// at each start, and printed.
    #[arg(long, env = "OPENCODE_REPLY_TOKEN", hide_env_values = true, global = true)]
    pub reply_token: Option<SecretString>,
}

impl Permissions {
    /// Makes a reply token of the system's source of randomness if there is none, and answers it, to be told.
    pub fn make_reply_token(&mut self) -> Option<String> {
        if self.reply_token.is_some() {
            return None;
        }
        let token = super::access::random();
        self.reply_token = Some(token.clone().into());
        Some(token)
    }

    /// What the domain needs of them.
    pub(super) fn settings(&self) -> Result<PermissionSettings, String> {
        let reply_token = match &self.reply_token {
            Some(token) if is_token(token.expose_secret()) => token.clone(),
            Some(_) | None => {
                return Err(format!(
                    "OPENCODE_REPLY_TOKEN: is to be of at least {MIN_TOKEN} letters, digits and the like, without spaces"
                ));
            }
        };
        Ok(PermissionSettings {
            mode: self.permission_mode,
            rules: self.permission_rules.clone(),
            timeout: super::seconds(self.permission_timeout),
            default: match self.permission_default.as_str() {
                "stop" => PermissionDecision::Stop,
                _ => PermissionDecision::Deny,
            },
            absence: super::seconds(self.permission_absence_seconds),
            reply_token,
        })
    }
}
