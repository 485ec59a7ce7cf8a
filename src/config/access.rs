//! The settings of who may come in.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::{AccessSettings, TokenHash};

/// Fewest characters of a token.
pub(super) const MIN_TOKEN: usize = 16;

/// Who may come in.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Who may come in")]
pub struct Access {
    /// A token with every scope, which clients send as `Authorization: Bearer <token>`. Default: none is asked for at a
    /// loopback address; at any other one is made at each start, and printed.
    #[arg(long, env = "OPENCODE_API_TOKEN", hide_env_values = true, global = true)]
    pub api_token: Option<SecretString>,
    /// A YAML or JSON file of more tokens (id, sha256, scopes, expires); read again when it changes; outside of the
    /// workspace.
    #[arg(long, env = "OPENCODE_API_TOKENS_FILE", global = true)]
    pub api_tokens_file: Option<PathBuf>,
    /// Ask nobody for a token, also at an address that is no loopback one. Whoever reaches it can run commands here.
    #[arg(long, env = "OPENCODE_INSECURE_NO_AUTH", default_value_t = false, global = true,
          action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub insecure_no_auth: bool,
    /// Names that requests may have in `Host` beside loopback ones where no token is asked for, separated by commas; with
    /// or without a port.
    #[arg(long, env = "OPENCODE_ALLOWED_HOSTS", value_delimiter = ',', global = true)]
    pub allowed_hosts: Vec<String>,
    /// Believe `X-Forwarded-Host` and `X-Forwarded-For`: only where a proxy of yours sets them, and nobody comes past it.
    #[arg(long, env = "OPENCODE_TRUST_PROXY", default_value_t = false, global = true,
          action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub trust_proxy: bool,
}

impl Access {
    /// Makes a token of the system's source of randomness if one is needed and there is none; answers it, to be told.
    pub fn make_token(&mut self, is_loopback: bool) -> Option<String> {
        if is_loopback || self.insecure_no_auth || self.asks_for_tokens() {
            return None;
        }
        let token = random();
        self.api_token = Some(token.clone().into());
        Some(token)
    }

    /// Whether anybody is asked for a token.
    pub fn asks_for_tokens(&self) -> bool {
        self.api_token.is_some() || self.api_tokens_file.is_some()
    }

    /// What the domain needs of them.
    pub(super) fn settings(&self) -> Result<AccessSettings, String> {
        if self.insecure_no_auth && self.asks_for_tokens() {
            return Err("OPENCODE_INSECURE_NO_AUTH is set, and a token too: leave one of them out".into());
        }
        let token = self.api_token.as_ref().map(|token| {
            let token = token.expose_secret();
            if !is_token(token) {
                return Err(format!(
                    "OPENCODE_API_TOKEN: is to be of at least {MIN_TOKEN} letters, digits and the like, without spaces"
                ));
            }
            Ok(TokenHash::of(token.as_bytes()))
        });
        Ok(AccessSettings { token: token.transpose()?, file: self.api_tokens_file.clone() })
    }
}

/// Whether it is one that a header can carry and that is not soon guessed.
pub(super) fn is_token(token: &str) -> bool {
    token.len() >= MIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A secret that nobody guesses: 32 bytes as hexadecimal digits, 244 bits of them random.
pub(super) fn random() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
