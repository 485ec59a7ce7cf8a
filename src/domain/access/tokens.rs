//! The tokens that are good: one of the environment, and those of a file, which is read again when it changes. Of each only
//! the hash is known.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Caller, Scope, Scopes};
use crate::domain::{
    OpenCode,
    error::{Error, Result},
};

/// How often the file is looked at, and whether a token has expired meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// Most bytes of the file.
const MAX_FILE: u64 = 1024 * 1024;
/// The id of the token that a variable has.
const OWN_ID: &str = "api-token";
/// Bytes of the longest id.
const MAX_ID: usize = 64;

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// A token with every scope.
    pub token: Option<TokenHash>,
    /// A file of more tokens.
    pub file: Option<PathBuf>,
}

/// What is known of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub(super) [u8; 32]);

/// The tokens. Where there are none at all, nobody is asked for one.
pub(in crate::domain) struct Tokens {
    own: Option<Known>,
    file: Option<PathBuf>,
    /// Of the file as it was read at the start.
    first: Option<Stamp>,
    read: RwLock<Arc<[Known]>>,
}

#[derive(Clone)]
struct Known {
    hash: TokenHash,
    scopes: Scopes,
    expires: Option<Timestamp>,
    caller: Caller,
}

/// By what it is seen that a file is another one.
type Stamp = (u64, u64, i64, i64);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    sha256: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    expires: Option<Timestamp>,
}

impl TokenHash {
    /// Of the token itself.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// As a file has it: 64 hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let digit = |at: usize| char::from(text.as_bytes()[at]).to_digit(16);
        if text.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::try_from(digit(2 * index)? * 16 + digit(2 * index + 1)?).ok()?;
        }
        Some(Self(hash))
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Tokens {
    /// Reads the file, which may not lie in `workspace`: the agent could change it there.
    pub(in crate::domain) fn open(settings: &AccessSettings, workspace: &Path) -> Result<Self> {
        let own = settings.token.map(|hash| {
            let scopes = Scopes::all();
            Known { hash, scopes, expires: None, caller: Caller::with_token(OWN_ID, scopes) }
        });
        // Before it is read, so that no change is missed.
        let first = settings.file.as_deref().and_then(stamp);
        let read = match &settings.file {
            Some(file) if lies_in(workspace, file) => {
                return Err(wrong("lies inside the workspace, where the agent could change it; keep it elsewhere"));
            }
            Some(file) => {
                if rustix::fs::access(file, rustix::fs::Access::WRITE_OK).is_ok() {
                    tracing::warn!(
                        file = %file.display(),
                        "the agent's commands run as the user of this process, who may write the file of tokens: they could give \
                         themselves one; let another user own it"
                    );
                }
                read(file, &[])?
            }
            None => Vec::new(),
        };
        Ok(Self { own, file: settings.file.clone(), first, read: RwLock::new(read.into()) })
    }

    pub(super) fn are_asked_for(&self) -> bool {
        self.own.is_some() || self.file.is_some()
    }

    /// In the same time whichever it is, and whether it is one at all.
    pub(super) fn caller(&self, token: &[u8]) -> Option<Caller> {
        let hash = TokenHash::of(token);
        let read = Arc::clone(&self.read.read().unwrap_or_else(PoisonError::into_inner));
        let mut found = None;
        for known in self.own.iter().chain(read.iter()) {
            if bool::from(known.hash.0.ct_eq(&hash.0)) {
                found = Some(known);
            }
        }
        found.filter(|known| !known.has_expired(Timestamp::now())).map(|known| known.caller.clone())
    }

    /// Ends what has expired, and reads the file again if it is another one. One that cannot be read changes nothing.
    fn look(&self, before: &mut Option<Stamp>) {
        let Some(file) = &self.file else { return };
        let known = Arc::clone(&self.read.read().unwrap_or_else(PoisonError::into_inner));
        let now = Timestamp::now();
        known.iter().filter(|known| known.has_expired(now)).for_each(|known| known.caller.ended().cancel());
        let stamp = stamp(file);
        if stamp == *before {
            return;
        }
        *before = stamp;
        match read(file, &known) {
            Ok(tokens) => {
                // Open streams of those that are gone end.
                let is_left = |old: &Known| tokens.iter().any(|new| Arc::ptr_eq(&new.caller.0, &old.caller.0));
                let gone: Vec<_> = known.iter().filter(|old| !is_left(old)).cloned().collect();
                tracing::info!(tokens = tokens.len(), gone = gone.len(), "the file of tokens was read again");
                *self.read.write().unwrap_or_else(PoisonError::into_inner) = tokens.into();
                gone.iter().for_each(|known| known.caller.ended().cancel());
            }
            Err(error) => tracing::error!("the tokens stay as they were: {error}"),
        }
    }
}

impl Known {
    fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl OpenCode {
    /// Looks after the file of tokens, if there is one, as long as the server runs.
    pub(in crate::domain) fn begin_tokens(&self) {
        if self.0.tokens.file.is_none() {
            return;
        }
        let (domain, mut before) = (self.clone(), self.0.tokens.first);
        self.0.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = domain.0.stopping.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
                let look = domain.clone();
                before = crate::domain::workspace::blocking(move || {
                    let mut before = before;
                    look.0.tokens.look(&mut before);
                    before
                })
                .await;
            }
        });
    }
}

/// Whether a file is in the workspace, by where it is or by where its name stands: there it could be replaced.
fn lies_in(workspace: &Path, file: &Path) -> bool {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    [file, folder].iter().any(|path| path.canonicalize().is_ok_and(|path| path.starts_with(workspace)))
}

fn stamp(file: &Path) -> Option<Stamp> {
    let data = fs::metadata(file).ok()?;
    Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

/// The tokens of a file; those that are as they were `before` stay the same callers.
fn read(file: &Path, before: &[Known]) -> Result<Vec<Known>> {
    let place = file.display();
    match fs::metadata(file) {
        Ok(data) if data.is_file() && data.len() <= MAX_FILE => {}
        Ok(_) => return Err(wrong(format!("{place} is no file of at most 1 MiB"))),
        Err(error) => return Err(wrong(format!("{place} cannot be read: {error}"))),
    }
    let text = fs::read_to_string(file).map_err(|error| wrong(format!("{place} cannot be read: {error}")))?;
    let File { tokens } = serde_saphyr::from_str(&text).map_err(|error| wrong(format!("{place}: {error}")))?;
    let mut ids = HashSet::new();
    let mut known = Vec::with_capacity(tokens.len());
    for Entry { id, sha256, scopes, expires } in tokens {
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if id == OWN_ID {
            return Err(wrong(format!("{place}: the id \"{OWN_ID}\" is that of the token of OPENCODE_API_TOKEN")));
        }
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(fits) {
            return Err(wrong(format!(
                "{place}: the id {id:?} is not of 1 to {MAX_ID} letters, digits, `.`, `-`, `_`"
            )));
        }
        let hash = TokenHash::parse(&sha256)
            .ok_or_else(|| wrong(format!("{place}: the sha256 of \"{id}\" is not of 64 hexadecimal digits")))?;
        if hash == TokenHash::of(b"") {
            return Err(wrong(format!("{place}: the sha256 of \"{id}\" is that of no token at all")));
        }
        let scopes = Scopes::of(&scopes);
        let same = before.iter().find(|old| {
            old.hash == hash && old.scopes == scopes && old.caller.token_id().is_some_and(|old| **old == *id)
        });
        let caller = match same {
            Some(old) if !old.caller.ended().is_cancelled() => old.caller.clone(),
            Some(_) | None => Caller::with_token(&id, scopes),
        };
        known.push(Known { hash, scopes, expires, caller });
        if !ids.insert(id) {
            return Err(wrong(format!("{place} has one id twice")));
        }
    }
    Ok(known)
}

fn wrong(problem: impl Into<String>) -> Error {
    Error::field("OPENCODE_API_TOKENS_FILE", problem)
}
