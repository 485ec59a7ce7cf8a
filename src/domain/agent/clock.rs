//! The clock of a turn: at each moment it is in one phase, and what goes by is added to that.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::domain::{
    id::ToolCallId,
    timeline::{Timeline, ToolTime},
};

/// Most tools whose own times are kept.
const MAX_TOOLS: usize = 500;

/// What a turn does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum Phase {
    /// It waits for its start.
    Queue,
    /// It waits for a model's first token.
    ModelWait,
    /// A model's answer comes in.
    ModelStream,
    /// It waits before it asks a model again.
    RetryWait,
    /// Tools run.
    Tools,
    /// It waits for a permission; among tools that run side by side this comes before what the others do.
    Permission,
    /// It waits for a version of the workspace.
    Snapshots,
    /// It waits for the log.
    Storing,
    /// All else.
    Other,
}

/// Measures one turn.
#[derive(Debug)]
pub(in crate::domain) struct Clock(Mutex<State>);

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    spent: [Duration; Phase::Other as usize + 1],
    /// Several things run side by side, so that none of them says what the turn does.
    is_shared: bool,
    /// How many permissions are waited for, and what is gone back to after that.
    asked: usize,
    after_asking: Phase,
    tools: Vec<ToolTime>,
}

/// Goes back to the phase before when it is dropped.
pub(in crate::domain) struct During<'a> {
    clock: &'a Clock,
    phase: Phase,
    /// None where the phase was not ours to change.
    before: Option<Phase>,
    shares: bool,
}

impl Clock {
    /// Of a turn that waits for its start.
    pub(super) fn new() -> Self {
        let phase = Phase::Queue;
        Self(Mutex::new(State {
            phase,
            since: Instant::now(),
            spent: Default::default(),
            is_shared: false,
            asked: 0,
            after_asking: phase,
            tools: Vec::new(),
        }))
    }

    /// From here on the turn does this.
    pub(super) fn switch(&self, phase: Phase) {
        self.state().enter(phase);
    }

    /// The turn does this until the guard is dropped.
    pub(in crate::domain) fn enter(&self, phase: Phase) -> During<'_> {
        let mut state = self.state();
        let before = match phase {
            Phase::Permission => {
                state.asked += 1;
                if state.asked == 1 {
                    state.after_asking = state.phase;
                    state.enter(phase);
                }
                None
            }
            _ if state.is_shared => None,
            _ => Some(state.enter(phase)),
        };
        During { clock: self, phase, before, shares: false }
    }

    /// The same, and what runs side by side until then changes nothing but for permissions.
    pub(super) fn enter_shared(&self, phase: Phase) -> During<'_> {
        let mut guard = self.enter(phase);
        guard.shares = true;
        self.state().is_shared = true;
        guard
    }

    /// Awaits something that is of this phase.
    pub(in crate::domain) async fn during<T>(&self, phase: Phase, work: impl Future<Output = T>) -> T {
        let _guard = self.enter(phase);
        work.await
    }

    /// Notes how long a tool ran.
    pub(super) fn ran(&self, tool_call_id: ToolCallId, name: String, took: Duration) {
        let mut state = self.state();
        if state.tools.len() < MAX_TOOLS {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            state.tools.push(ToolTime { tool_call_id, name, ms });
        }
    }

    /// What was measured until now.
    pub(in crate::domain) fn read(&self) -> Timeline {
        let mut state = self.state();
        let phase = state.phase;
        state.enter(phase);
        // Rounded as they add up, so that no milliseconds are lost between them.
        let (mut whole, mut told) = (Duration::ZERO, 0);
        let ms = state.spent.map(|spent| {
            whole += spent;
            let until = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
            until - std::mem::replace(&mut told, until)
        });
        let of = |phase: Phase| ms[phase as usize];
        Timeline {
            wall_ms: told,
            queue_ms: of(Phase::Queue),
            model_wait_ms: of(Phase::ModelWait),
            model_stream_ms: of(Phase::ModelStream),
            retry_wait_ms: of(Phase::RetryWait),
            tools_ms: of(Phase::Tools),
            permission_ms: of(Phase::Permission),
            snapshots_ms: of(Phase::Snapshots),
            storing_ms: of(Phase::Storing),
            other_ms: of(Phase::Other),
            tools: state.tools.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Answers the phase before.
    fn enter(&mut self, phase: Phase) -> Phase {
        let now = Instant::now();
        self.spent[self.phase as usize] += now.duration_since(std::mem::replace(&mut self.since, now));
        std::mem::replace(&mut self.phase, phase)
    }
}

impl Drop for During<'_> {
    fn drop(&mut self) {
        let mut state = self.clock.state();
        if self.shares {
            state.is_shared = false;
        }
        if self.phase == Phase::Permission {
            state.asked -= 1;
            if state.asked == 0 {
                let after = state.after_asking;
                state.enter(after);
            }
        }
        if let Some(before) = self.before {
            state.enter(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a phase has after a while that is longer than any rounding.
    fn pass(clock: &Clock) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        let timeline = clock.read();
        let Timeline { wall_ms, queue_ms, tools_ms, permission_ms, storing_ms, other_ms, .. } = timeline;
        assert_eq!(queue_ms + tools_ms + permission_ms + storing_ms + other_ms, wall_ms);
    }

    #[test]
    fn one_phase_at_a_time_whatever_runs_side_by_side() {
        let clock = Clock::new();
        pass(&clock);
        clock.switch(Phase::Other);
        let tools = clock.enter_shared(Phase::Tools);
        let storing = clock.enter(Phase::Storing);
        pass(&clock);
        let (one, other) = (clock.enter(Phase::Permission), clock.enter(Phase::Permission));
        drop(one);
        let storing_too = clock.enter(Phase::Storing);
        pass(&clock);
        assert_eq!((clock.read().storing_ms, clock.read().tools_ms >= 2), (0, true));
        assert!(clock.read().permission_ms >= 2);
        drop(other);
        drop((storing, storing_too, tools));
        let before = clock.read().other_ms;
        pass(&clock);
        assert!(clock.read().other_ms >= before + 2, "it is back where it began");
        clock.enter(Phase::Storing);
        let storing = clock.enter(Phase::Storing);
        pass(&clock);
        drop(storing);
        assert!(clock.read().storing_ms >= 2);
    }
}
