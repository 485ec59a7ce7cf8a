//! What was stored since the start, in figures: counted from the batches themselves when they are committed, so that nothing
//! is told that the log does not have.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::batch::{Batch, Entry};
use crate::domain::{event::EventKind, id::ToolCallId, money::Picodollars, part::FinishReason, usage::Tokens};

/// Upper ends of the classes of commit times, in microseconds.
pub const COMMIT_CLASSES: [u64; 10] = [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000];

/// What was stored since the start.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Turns that have ended, by why.
    pub turns: BTreeMap<&'static str, u64>,
    /// Calls of providers, by provider and by what came of them.
    pub model_calls: BTreeMap<(&'static str, &'static str), u64>,
    /// Tokens of those calls.
    pub tokens: Tokens,
    /// What they cost, as far as that is known.
    pub cost: Picodollars,
    /// Tool calls that have ended, by tool and by whether they failed.
    pub tool_calls: BTreeMap<(&'static str, bool), u64>,
    /// Commits of the log that took no longer than each class, and all of them.
    pub commits: [u64; COMMIT_CLASSES.len() + 1],
    /// How long all commits took together.
    pub commit_time: Duration,
}

/// The names that are counted by themselves; all others are one, so that nobody makes the figures grow.
#[derive(Clone, Copy)]
pub(in crate::domain) struct Names {
    /// The provider of a model as `provider/id`.
    pub(in crate::domain) provider: fn(&str) -> &'static str,
    /// A tool.
    pub(in crate::domain) tool: fn(&str) -> &'static str,
}

/// Counts.
pub(super) struct Counting {
    names: Names,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    /// The tools of the calls that run: their end does not name them.
    running: HashMap<ToolCallId, &'static str>,
}

impl Counting {
    pub(super) fn new(names: Names) -> Self {
        Self { names, state: Mutex::default() }
    }

    pub(super) fn read(&self) -> Tally {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tally.clone()
    }

    /// These batches were committed together, which took so long.
    pub(super) fn count(&self, batches: &[Batch], took: Duration) {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (count, most) in state.tally.commits.iter_mut().zip(COMMIT_CLASSES.into_iter().chain([u64::MAX])) {
            *count += u64::from(micros <= most);
        }
        state.tally.commit_time += took;
        for entry in batches.iter().flat_map(|batch| &batch.entries) {
            match entry {
                Entry::Event { kind, .. } => self.event(state, kind),
                Entry::Ledger(row) => {
                    let tally = &mut state.tally;
                    *tally.model_calls.entry(((self.names.provider)(&row.model), row.outcome)).or_default() += 1;
                    tally.tokens = tally.tokens.plus(row.spent.tokens);
                    tally.cost = tally.cost.plus(row.spent.cost.unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    fn event(&self, state: &mut State, kind: &EventKind) {
        match kind {
            EventKind::ToolCallStarted(started) => {
                state.running.insert(started.tool_call_id.clone(), (self.names.tool)(&started.tool_name));
            }
            EventKind::ToolCallCompleted(completed) => {
                // One that an earlier start began has no name here.
                let tool = state.running.remove(&completed.tool_call_id).unwrap_or("other");
                *state.tally.tool_calls.entry((tool, completed.is_error)).or_default() += 1;
            }
            EventKind::TurnCompleted(completed) => {
                *state.tally.turns.entry(reason(completed.finish_reason)).or_default() += 1;
            }
            _ => {}
        }
    }
}

/// As the API has it.
fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndTurn => "end_turn",
        FinishReason::Stop => "stop",
        FinishReason::Canceled => "canceled",
        FinishReason::Error => "error",
        FinishReason::PermissionDenied => "permission_denied",
        FinishReason::ToolUse => "tool_use",
        FinishReason::MaxTokens => "max_tokens",
        FinishReason::Refused => "refused",
        FinishReason::BudgetExhausted => "budget_exhausted",
    }
}
