//! Requests that may be sent again: a key of the client's names what was accepted, and a repeat joins that or is
//! answered again. It never starts anything.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    OpenCode,
    access::Caller,
    cursor::Cursor,
    error::{Code, Error, Result},
    store::{Accepted, FoundKey, NewKey},
};

/// How long a key is kept.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Most characters of a key.
const MAX_KEY: usize = 255;

/// A client's own name for a request that it may send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// An answer, and whether it was given before.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// The request is a repeat: nothing was done now.
    pub replayed: bool,
}

/// A request with its key: what is asked for, known by its hash.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    name: String,
    fingerprint: Vec<u8>,
}

/// The keyed requests that are at work and can only be answered when they are done.
#[derive(Clone, Default)]
pub(super) struct AtWork(Arc<Mutex<HashMap<String, Vec<u8>>>>);

/// Keeps a key among those at work.
struct Work {
    at_work: AtWork,
    name: String,
}

impl IdempotencyKey {
    /// Checks a key; `field` is what the door calls it.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_KEY || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(Error::field(field, format!("must be 1 to {MAX_KEY} printable ASCII characters")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Keyed {
    /// A request of an operation. `wish` is all that is asked for, and the same through every door.
    pub(super) fn new(key: IdempotencyKey, operation: &str, wish: &impl Serialize) -> Result<Self> {
        let wish = serde_json::to_vec(&(operation, wish)).map_err(Error::internal)?;
        // Each token has keys of its own. No key has a line break in it.
        let name = match Caller::current().and_then(|caller| caller.token_id().cloned()) {
            Some(id) => format!("{id}\n{}", key.0),
            None => key.0,
        };
        Ok(Self { name, fingerprint: Sha256::digest(wish).to_vec() })
    }

    /// What is stored with what was accepted.
    pub(super) fn accepted(self, accepted: Accepted) -> NewKey {
        NewKey { name: self.name, fingerprint: self.fingerprint, accepted }
    }

    /// What is stored with an answer.
    pub(super) fn answered(self, answer: &impl Serialize) -> Result<NewKey> {
        let json = serde_json::to_string(answer).map_err(Error::internal)?;
        Ok(self.accepted(Accepted::Answer(json)))
    }
}

impl AtWork {
    fn begin(&self, key: &Keyed) -> Result<Work> {
        let mut at_work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match at_work.get(&key.name) {
            Some(fingerprint) if *fingerprint != key.fingerprint => Err(reused()),
            Some(_) => {
                let detail = "the first request with this key is still at work; ask again for its answer";
                Err(Error::new(Code::InProgress, detail).retry_after(Duration::from_secs(1)))
            }
            None => {
                at_work.insert(key.name.clone(), key.fingerprint.clone());
                Ok(Work { at_work: self.clone(), name: key.name.clone() })
            }
        }
    }

    /// Refuses a request whose key another one has that is at work.
    pub(super) fn refuse(&self, key: &Keyed) -> Result<()> {
        self.begin(key).map(drop)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.at_work.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl OpenCode {
    /// What was accepted under this key before, if it was by the same request.
    pub(super) async fn found(&self, key: &Keyed) -> Result<Option<FoundKey>> {
        let name = key.name.clone();
        match self.0.store.read(move |snapshot| snapshot.key(&name)).await? {
            Some(found) if found.fingerprint != key.fingerprint => Err(reused()),
            found => Ok(found),
        }
    }

    /// Runs `work`, which stores the key with its answer, to its end; or answers again what it answered before, made of
    /// the stored JSON and the place of the log.
    pub(super) async fn once<T: Send + 'static>(
        &self,
        key: Option<&Keyed>,
        again: impl Fn(&str, Cursor) -> serde_json::Result<T>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<Answered<T>> {
        let Some(key) = key else {
            return Ok(Answered { value: self.to_the_end(work).await?, replayed: false });
        };
        // Begun before it is looked for: whoever ended in between has stored its answer.
        let begun = self.0.at_work.begin(key);
        if let Some(found) = self.found(key).await? {
            let Accepted::Answer(json) = &found.accepted else { return Err(reused()) };
            let value = again(json, found.as_of).map_err(Error::internal)?;
            return Ok(Answered { value, replayed: true });
        }
        let begun = begun?;
        let work = async move {
            let value = work.await;
            drop(begun);
            value
        };
        Ok(Answered { value: self.to_the_end(work).await?, replayed: false })
    }
}

fn reused() -> Error {
    Error::new(Code::IdempotencyKeyReused, "another request had this key within the last 24 hours; take a new one")
}
