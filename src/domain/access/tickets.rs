//! Tickets: a caller's right to one path for what cannot send a header, such as EventSource and download links. They live in
//! memory alone, so that a restart ends them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Caller, TokenHash};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    session::now,
};

/// How long a ticket waits for its first use, and after its last answer has ended for the next one.
pub(in crate::domain) const IDLE: Duration = Duration::from_secs(60);
/// How long it can be used at all.
pub(in crate::domain) const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Most tickets at once of one token.
const MAX_TICKETS: usize = 200;
/// Bytes of the longest path.
const MAX_PATH: usize = 8192;

/// Asks for a ticket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTicket {
    /// The path that it is for, without parameters and as it will stand in the request, such as `/events`.
    #[schema(example = "/events")]
    pub path: String,
    /// The origin of the page that asks: only its requests may use the ticket.
    #[serde(skip)]
    pub origin: Option<String>,
}

/// What stands for a token in `?ticket=`.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ticket {
    /// The ticket, which is told once.
    pub ticket: String,
    /// The path that it is for.
    pub path: String,
    /// When it is good no more, however often it is used.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The tickets that are out.
#[derive(Default)]
pub(in crate::domain) struct Tickets(Arc<Mutex<HashMap<[u8; 32], Out>>>);

struct Out {
    path: String,
    origin: Option<String>,
    caller: Caller,
    made: Instant,
    /// Answers that are on their way.
    open: usize,
    /// When the last one ended.
    idle_since: Instant,
}

/// A ticket in use; to be kept as long as its answer is on its way.
pub struct TicketUse {
    tickets: Arc<Mutex<HashMap<[u8; 32], Out>>>,
    hash: [u8; 32],
}

impl Out {
    fn is_good(&self, now: Instant) -> bool {
        let is_idle = self.open == 0 && now.duration_since(self.idle_since) >= IDLE;
        !is_idle && now.duration_since(self.made) < LIFE && !self.caller.ended().is_cancelled()
    }
}

impl OpenCode {
    /// Makes a ticket for who calls, good for GET and HEAD of one path with what the caller may do.
    ///
    /// `rate_limited`: too many are out.
    pub fn create_ticket(&self, wish: CreateTicket) -> Result<Ticket> {
        let CreateTicket { path, origin } = wish;
        if !path.starts_with('/') || path.contains(['?', '#']) || path.len() > MAX_PATH {
            return Err(Error::field("path", "is to begin with `/` and to have no parameters, such as /events"));
        }
        let caller = Caller::current().unwrap_or_else(Caller::without_token);
        let ticket = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let at = Instant::now();
        let mut out = lock(&self.0.tickets.0);
        let of =
            |out: &HashMap<_, Out>| out.values().filter(|known| known.caller.token_id() == caller.token_id()).count();
        if of(&out) >= MAX_TICKETS {
            out.retain(|_, known| known.is_good(at));
        }
        if of(&out) >= MAX_TICKETS {
            let detail = format!("{MAX_TICKETS} tickets of this token are out, which is the most");
            return Err(Error::new(Code::RateLimited, detail).retry_after(IDLE));
        }
        let known = Out { path: path.clone(), origin, caller, made: at, open: 0, idle_since: at };
        out.insert(TokenHash::of(ticket.as_bytes()).0, known);
        let expires_at = now() + jiff::SignedDuration::from_secs(LIFE.as_secs() as i64);
        Ok(Ticket { ticket, path, expires_at })
    }

    /// Who shows this ticket for this path; none where it is not, or no more, a good one.
    pub fn use_ticket(&self, ticket: &str, path: &str, origin: Option<&[u8]>) -> Option<(Caller, TicketUse)> {
        // By its hash, so that the time of the look says nothing about the ticket.
        let hash = TokenHash::of(ticket.as_bytes()).0;
        let tickets = Arc::clone(&self.0.tickets.0);
        let mut out = lock(&tickets);
        let known = out.get_mut(&hash)?;
        // A browser does not say where its own page's requests come from.
        let is_its = origin.is_none_or(|origin| known.origin.as_deref().is_some_and(|own| own.as_bytes() == origin));
        if !known.is_good(Instant::now()) || known.path != path || !is_its {
            return None;
        }
        known.open += 1;
        let caller = known.caller.clone();
        drop(out);
        Some((caller, TicketUse { tickets, hash }))
    }
}

impl Drop for TicketUse {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.tickets).get_mut(&self.hash) {
            known.open -= 1;
            known.idle_since = Instant::now();
        }
    }
}

fn lock(tickets: &Mutex<HashMap<[u8; 32], Out>>) -> MutexGuard<'_, HashMap<[u8; 32], Out>> {
    tickets.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_ends_a_minute_after_its_last_use_and_after_its_life() {
        let made = Instant::now();
        let out = |open, idle_since| Out {
            path: "/events".into(),
            origin: None,
            caller: Caller::anybody(),
            made,
            open,
            idle_since,
        };
        let after = |time: Duration| made + time;
        assert!(out(0, made).is_good(after(IDLE - Duration::from_secs(1))));
        assert!(!out(0, made).is_good(after(IDLE)));
        assert!(out(1, made).is_good(after(IDLE * 60)), "as long as it is used");
        let used_until = after(IDLE * 60);
        assert!(out(0, used_until).is_good(used_until + IDLE / 2));
        assert!(!out(0, used_until).is_good(used_until + IDLE));
        assert!(!out(1, made).is_good(after(LIFE)));
        let ended = out(1, made);
        ended.caller.ended().cancel();
        assert!(!ended.is_good(made));
    }
}
