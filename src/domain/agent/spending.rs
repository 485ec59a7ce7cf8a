//! What a turn has spent, and whether the next call fits what is left: asked before each call, with the worst that it
//! may come to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::domain::{
    budget::{Budgets, Kind, Limits, Scope},
    model::{Model, Price},
    money::Picodollars,
    usage::{Spent, Tokens},
};

/// Fewest output tokens that make a useful answer: where no more can be paid for, none is asked for.
const LEAST_OUTPUT: u64 = 1_024;
/// Most tokens that an answer is asked to have: many providers take it from the room that is left for the prompt.
pub(super) const MAX_OUTPUT: u32 = 32_000;

/// What a turn may spend, and what it has spent.
#[derive(Debug)]
pub(in crate::domain) struct Spending {
    /// The turn's own limits, and which of them its message has set.
    turn: Limits,
    asked: Limits,
    session: Limits,
    /// What the session had used before this turn.
    before: Used,
    began: Instant,
    account: Mutex<Account>,
}

/// What the turns of a session have used.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::domain) struct Used {
    pub(in crate::domain) spent: Spent,
    pub(in crate::domain) time: Duration,
}

#[derive(Debug, Default)]
struct Account {
    spent: Spent,
    /// What the calls that run may come to.
    held: Worst,
}

/// The worst that calls may come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Worst {
    calls: u64,
    tokens: u64,
    cost: Picodollars,
}

/// A call that is to be made.
pub(super) struct Call<'a> {
    pub(super) model: &'a Model,
    /// Tokens of its prompt, at most.
    pub(super) prompt: u64,
    /// Tokens of its answer at most; 0 where its model has no known limit.
    pub(super) output: u32,
    pub(super) purpose: Purpose,
}

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The turn's next answer, which may also be shorter.
    Answer,
    /// A summary, after which there has to be room for an answer.
    Summary,
    /// A title, which is not to cost the turn its answers: it takes a tenth of what is left at most.
    Title,
}

/// A call that may be made. Its worst is held until it is settled.
pub(super) struct Admitted {
    /// Most tokens that the answer may have; 0 where nothing limits it.
    pub(super) output: u32,
    worst: Worst,
    spending: Arc<Spending>,
}

/// A limit that is reached, or that the next call would pass.
#[derive(Debug)]
pub(super) struct Exhausted {
    pub(super) kind: Kind,
    pub(super) scope: Scope,
    limit: String,
    used: String,
    /// What the next call may come to.
    needed: Option<String>,
    by_message: bool,
}

impl Spending {
    /// Of a turn that begins now.
    pub(in crate::domain) fn new(budgets: &Budgets, asked: Limits, before: Used) -> Arc<Self> {
        let turn = asked.or(budgets.turn);
        let (began, account) = (Instant::now(), Mutex::default());
        Arc::new(Self { turn, asked, session: budgets.session, before, began, account })
    }

    /// How long the turn may still take; none where nothing limits it.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let turn = self.turn.seconds.map(Duration::from_secs);
        let session = self.session.seconds.map(|limit| Duration::from_secs(limit).saturating_sub(self.before.time));
        let whole = turn.into_iter().chain(session).min()?;
        Some(whole.saturating_sub(self.began.elapsed()))
    }

    /// Which limit of time is reached first.
    pub(super) fn out_of_time(&self) -> Exhausted {
        let turn = self.turn.seconds.unwrap_or(u64::MAX);
        let session = self.session.seconds.map(|limit| limit.saturating_sub(self.before.time.as_secs()));
        let scope = if session.is_some_and(|left| left < turn) { Scope::Session } else { Scope::Turn };
        let (limit, used) = match scope {
            Scope::Turn => (turn, self.began.elapsed()),
            Scope::Session => (self.session.seconds.unwrap_or(0), self.before.time + self.began.elapsed()),
        };
        self.exhausted(Kind::Seconds, scope, &limit, &used.as_secs().min(limit), None::<&u64>)
    }

    /// Whether a call may be made, with how long an answer.
    pub(super) fn admit(self: &Arc<Self>, call: &Call<'_>) -> Result<Admitted, Exhausted> {
        if self.time_left().is_some_and(|left| left.is_zero()) {
            return Err(self.out_of_time());
        }
        let limited = [self.turn, self.session].iter().any(|limits| limits.has(Kind::Tokens) || limits.has(Kind::Usd));
        let mut output = u64::from(if call.output == 0 { MAX_OUTPUT } else { call.output });
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let price = call.model.price.unwrap_or_default();
        for (scope, limits, spent) in [
            (Scope::Turn, self.turn, account.spent),
            (Scope::Session, self.session, account.spent.plus(self.before.spent)),
        ] {
            let used = account.held.plus(Worst::of(&spent));
            // A summary and a title have to leave a call for the answer.
            let calls = if call.purpose == Purpose::Answer { 1 } else { 2 };
            if let Some(limit) = limits.model_calls.filter(|limit| used.calls.saturating_add(calls) > *limit) {
                return Err(self.exhausted(Kind::ModelCalls, scope, &limit, &used.calls, Some(&calls)));
            }
            let least = match call.purpose {
                Purpose::Answer => output.min(LEAST_OUTPUT),
                Purpose::Summary | Purpose::Title => output,
            };
            let share = if call.purpose == Purpose::Title { 10 } else { 1 };
            if let Some(limit) = limits.tokens {
                let left = limit.saturating_sub(used.tokens) / share;
                let needed = call.prompt.saturating_add(least);
                if needed > left {
                    return Err(self.exhausted(Kind::Tokens, scope, &limit, &used.tokens, Some(&needed)));
                }
                output = output.min(left - call.prompt);
            }
            if let Some(limit) = limits.usd {
                let left = Picodollars((limit.0 - used.cost.0).max(0) / i64::from(share as u32));
                let prompt = dearest(&price).times(call.prompt);
                let needed = prompt.plus(price.output.times(least));
                if needed > left {
                    return Err(self.exhausted(Kind::Usd, scope, &limit, &used.cost, Some(&needed)));
                }
                if let Some(room) = (left.0 - prompt.0).checked_div(price.output.0) {
                    output = output.min(u64::try_from(room).unwrap_or(0));
                }
            }
        }
        let worst = Worst {
            calls: 1,
            tokens: call.prompt.saturating_add(output),
            cost: dearest(&price).times(call.prompt).plus(price.output.times(output)),
        };
        account.held = account.held.plus(worst);
        drop(account);
        let asked = if limited { u32::try_from(output).unwrap_or(u32::MAX) } else { call.output };
        Ok(Admitted { output: asked, worst, spending: Arc::clone(self) })
    }

    /// The same for a call that the turn can do without: it is not made where money is limited and its price unknown.
    pub(super) fn admit_aside(self: &Arc<Self>, call: &Call<'_>) -> Option<Admitted> {
        let money = self.turn.has(Kind::Usd) || self.session.has(Kind::Usd);
        if money && call.model.price.is_none() {
            return None;
        }
        self.admit(call).ok()
    }

    fn exhausted(
        &self,
        kind: Kind,
        scope: Scope,
        limit: &impl ToString,
        used: &impl ToString,
        needed: Option<&impl ToString>,
    ) -> Exhausted {
        let by_message = scope == Scope::Turn && self.asked.has(kind);
        let (limit, used) = (limit.to_string(), used.to_string());
        Exhausted { kind, scope, limit, used, needed: needed.map(|needed| needed.to_string()), by_message }
    }
}

impl Admitted {
    /// What a call spent whose usage is not known, or not all of it: the rest of its worst is noted, for budgets alone.
    pub(super) fn unknown(&self, known: Tokens, cost: Option<Picodollars>) -> Spent {
        let told = known.prompt.saturating_add(known.completion);
        let rest = self.worst.cost.0.saturating_sub(cost.unwrap_or_default().0).max(0);
        Spent {
            tokens: known,
            cost,
            unpriced_calls: 1,
            calls: 1,
            unknown_tokens: self.worst.tokens.saturating_sub(told),
            unknown_cost: Picodollars(rest),
        }
    }

    /// The call has ended, and this is what it spent.
    pub(super) fn settle(self, spent: Spent) {
        let mut account = self.spending.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.spent = account.spent.plus(spent);
        // What was held is given back by the drop.
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut account = self.spending.account.lock().unwrap_or_else(PoisonError::into_inner);
        let Worst { calls, tokens, cost } = self.worst;
        let held = account.held;
        account.held = Worst {
            calls: held.calls.saturating_sub(calls),
            tokens: held.tokens.saturating_sub(tokens),
            cost: Picodollars(held.cost.0.saturating_sub(cost.0)),
        };
    }
}

impl Worst {
    fn of(spent: &Spent) -> Self {
        let Spent { tokens, cost, unpriced_calls: _, calls, unknown_tokens, unknown_cost } = spent;
        Self {
            calls: *calls,
            tokens: tokens.prompt.saturating_add(tokens.completion).saturating_add(*unknown_tokens),
            cost: cost.unwrap_or_default().plus(*unknown_cost),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.plus(other.cost),
        }
    }
}

/// An estimate of tokens with half as many on top, so that the truth is hardly ever above.
pub(super) fn at_most(estimated: u64) -> u64 {
    estimated.saturating_add(estimated / 2)
}

/// The dearest that a token of a prompt may be.
fn dearest(price: &Price) -> Picodollars {
    price.input.max(price.cache_write).max(price.cache_read)
}

impl Exhausted {
    /// What is used up: `the 100 model calls that a turn may have`.
    fn what(&self) -> String {
        let Self { kind, scope, limit, .. } = self;
        let amount = match kind {
            Kind::ModelCalls => format!("{limit} model calls"),
            Kind::Seconds => format!("{limit} seconds"),
            Kind::Tokens => format!("{limit} tokens"),
            Kind::Usd => format!("{limit} US dollars"),
        };
        match self.needed.as_ref().filter(|_| *kind == Kind::Tokens || *kind == Kind::Usd) {
            Some(needed) => format!(
                "of the {amount} that this {} may use, {} are used, and the next model call may come to {needed}",
                scope.as_str(),
                self.used
            ),
            None => format!("this {} has used its {amount}", scope.as_str()),
        }
    }

    /// What can be done about it.
    fn help(&self) -> String {
        let (name, setting) = (self.kind.as_str(), self.scope.setting(self.kind));
        match self.scope {
            Scope::Turn if self.by_message => {
                format!("send a message to go on, with a higher budget.{name} if need be")
            }
            Scope::Turn => format!("send a message to go on, or raise {setting}"),
            Scope::Session => format!("raise {setting} to go on, or reset the session"),
        }
    }

    /// The words that close the turn, in place of the model's.
    pub(super) fn closing(&self) -> String {
        format!("I stopped here: {}. What helps: {}.", self.what(), self.help())
    }

    /// The error's message.
    pub(super) fn message(&self) -> String {
        format!("{}; {}", self.what(), self.help())
    }

    /// The figures, and what raises the limit.
    pub(super) fn details(&self) -> Value {
        let number = |text: &String| match self.kind {
            Kind::Usd => json!(text),
            Kind::ModelCalls | Kind::Seconds | Kind::Tokens => json!(text.parse::<u64>().unwrap_or(u64::MAX)),
        };
        let mut details = json!({
            "which": self.kind.as_str(),
            "scope": self.scope.as_str(),
            "limit": number(&self.limit),
            "used": number(&self.used),
            "setting": self.scope.setting(self.kind),
        });
        if let Some(needed) = &self.needed {
            details["needed"] = number(needed);
        }
        if self.by_message {
            details["field"] = format!("budget.{}", self.kind.as_str()).into();
        }
        details
    }

    /// Whether another message may go on.
    pub(super) fn is_retryable(&self) -> bool {
        self.scope == Scope::Turn
    }
}
