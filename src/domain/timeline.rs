//! Where a turn's time went, in parts that add up to all of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::ToolCallId;

/// Where a turn's time went, in milliseconds. At each moment the turn does one thing: the parts from `queue_ms` to
/// `other_ms` add up to `wall_ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// All of it, from `created_at` to `finished_at`, or until now.
    pub wall_ms: u64,
    /// Until it began.
    pub queue_ms: u64,
    /// Until the first token of each model call; of a summary and of a title that was waited for, all of the call.
    pub model_wait_ms: u64,
    /// From the first token of each model call to its end.
    pub model_stream_ms: u64,
    /// Before a model was asked again.
    pub retry_wait_ms: u64,
    /// Tools ran. Those that only read run side by side, so that their own times may add up to more.
    pub tools_ms: u64,
    /// A permission was waited for.
    pub permission_ms: u64,
    /// Versions of the workspace were waited for, before the first tool that writes and at the end.
    pub snapshots_ms: u64,
    /// The log was waited for. What is stored while a model or a tool goes on takes no time.
    pub storing_ms: u64,
    /// All else: reading the history and the context files, and our own work.
    pub other_ms: u64,
    /// Each tool call that ran, in the order of their ends, the first 500. Empty in a list of turns.
    #[serde(default)]
    pub tools: Vec<ToolTime>,
}

/// How long a tool ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolTime {
    /// The call.
    pub tool_call_id: ToolCallId,
    /// The tool's name.
    pub name: String,
    /// Its own time, without what it waited for before it ran.
    pub ms: u64,
}

impl Timeline {
    /// Makes it one of a turn with these times: what came before the start was spent in the queue, and what is not yet
    /// accounted for with storing the end.
    pub(super) fn close(&mut self, created: Timestamp, started: Timestamp, ended: Timestamp) {
        let between = |from: Timestamp, to: Timestamp| to.duration_since(from).as_millis().clamp(0, 1 << 50) as u64;
        self.queue_ms += between(created, started);
        self.wall_ms = between(created, ended);
        let known = self.parts().into_iter().map(|part| *part).sum::<u64>();
        self.storing_ms += self.wall_ms.saturating_sub(known);
        // Two clocks do not agree to the millisecond, and one of them may be set back.
        let mut over = known.saturating_sub(self.wall_ms);
        while let Some(largest) = self.parts().into_iter().max_by_key(|part| **part).filter(|_| over > 0) {
            let less = over.min(*largest);
            *largest -= less;
            over -= less;
        }
    }

    fn parts(&mut self) -> [&mut u64; 9] {
        let Self {
            wall_ms: _,
            queue_ms,
            model_wait_ms,
            model_stream_ms,
            retry_wait_ms,
            tools_ms,
            permission_ms,
            snapshots_ms,
            storing_ms,
            other_ms,
            tools: _,
        } = self;
        [
            other_ms,
            queue_ms,
            model_wait_ms,
            model_stream_ms,
            retry_wait_ms,
            tools_ms,
            permission_ms,
            snapshots_ms,
            storing_ms,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_whatever_the_clocks_say() {
        let at = |ms: i64| Timestamp::from_millisecond(1_000_000 + ms).unwrap_or_default();
        for (tools_ms, ended) in [(70, 100), (95, 100), (99, 100), (200, 100), (50, -20)] {
            let mut timeline = Timeline { tools_ms, other_ms: 3, ..Timeline::default() };
            timeline.close(at(0), at(5), at(ended));
            let sum: u64 = timeline.parts().into_iter().map(|part| *part).sum();
            assert_eq!((sum, timeline.wall_ms), (timeline.wall_ms, ended.max(0) as u64), "{timeline:?}");
        }
    }
}
