//! The event grammar of contract section 4: a judge over any stretch of the log that begins where nothing is open.

use std::collections::HashMap;

use serde_json::Value;

use super::{Event, fold::Messages};

/// Checks the events and answers the messages that they make.
pub fn check(events: &[Event]) -> Messages {
    let mut judge = Judge::default();
    for event in events {
        judge.event(event);
    }
    assert!(judge.turn.is_none(), "a turn without turn_completed: {:?}", judge.turn);
    assert_eq!(judge.messages.0, judge.whole.0, "who ignores every delta ends in the same state");
    assert_eq!(judge.messages.0, judge.told.0, "and so does who takes whole messages only");
    judge.messages
}

#[derive(Default)]
struct Judge {
    last_seq: Option<u64>,
    messages: Messages,
    /// Without deltas.
    whole: Messages,
    /// Of whole messages only.
    told: Messages,
    /// The results that are complete, as their events had them.
    results: HashMap<String, String>,
    turn: Option<Turn>,
    /// The turns that have ended.
    ended: Vec<Value>,
    /// A turn that ends without having begun.
    left: Option<Value>,
}

/// The turn that runs.
#[derive(Debug, Default)]
struct Turn {
    id: Value,
    user_message: Value,
    started: bool,
    /// The message that grows.
    open: Option<Value>,
    /// The message before it.
    before: Option<Value>,
    /// Calls that were started, and whether they were completed.
    calls: HashMap<String, bool>,
    last_answer: Option<Value>,
    /// The last summary, which is no answer.
    summary: Option<Value>,
    failed: bool,
    idle: bool,
}

impl Judge {
    fn event(&mut self, event: &Event) {
        let json = &event.json;
        assert_eq!(json["type"], event.name);
        assert!(json["at"].as_str().is_some_and(|at| at.ends_with('Z')), "RFC 3339 in UTC: {json}");
        if let Some(last) = self.last_seq {
            assert_eq!(event.seq(), last + 1, "a number is missing before {json}");
        }
        self.last_seq = Some(event.seq());
        if !event.id.is_empty() {
            let (_, seq) = event.id.rsplit_once('-').expect("a cursor");
            assert_eq!(seq, event.seq().to_string());
        }
        if json.get("turn_id").is_some() {
            self.turn_event(event);
        }
        self.fold(event);
    }

    fn fold(&mut self, event: &Event) {
        let before = event.message().and_then(|message| self.messages.get(&message["id"])).cloned();
        self.messages.apply(event);
        if !event.name.ends_with("_delta") {
            self.whole.apply(event);
        }
        if event.name.starts_with("message") || event.name == "session_reset" {
            self.told.apply(event);
        }
        if event.name == "tool_call_completed" {
            let output = event.json["output"].as_str().expect("text");
            self.results.insert(call_id(&event.json), output.to_owned());
        }
        let Some(message) = event.message() else { return };
        assert_eq!(message["seq"], event.json["seq"], "a message's seq is its event's");
        assert_eq!(message.get("turn_id"), event.json.get("turn_id"));
        for part in message["parts"].as_array().expect("parts").iter().filter(|part| part["type"] == "tool_result") {
            // A message of many large parts has less of each.
            if let Some(output) = self.results.get(&call_id(part)) {
                let content = part["content"].as_str().expect("text");
                assert!(output.starts_with(content), "a result that was complete changed: {output} -> {content}");
                assert!(part["truncated"] == true || output == content, "cut without a word");
            }
        }
        if let Some(before) = before {
            replaces(&before, message);
        }
    }

    fn turn_event(&mut self, event: &Event) {
        let (json, id) = (&event.json, event.turn_id());
        assert!(!self.ended.contains(id), "after turn_completed: {json}");
        let runs = self.turn.as_ref().is_some_and(|turn| &turn.id == id);
        if !runs && ["turn_failed", "turn_completed"].contains(&event.name.as_str()) {
            return self.left(event);
        }
        if !runs && event.name == "message_created" && json["message"]["role"] == "user" {
            assert!(self.turn.is_none(), "two turns at once");
            let user_message = json["message"]["id"].clone();
            assert!(json["message"]["finished_at"].is_string());
            self.turn = Some(Turn { id: id.clone(), user_message, ..Turn::default() });
            return;
        }
        let turn = self.turn.as_mut().unwrap_or_else(|| panic!("of no turn that began: {json}"));
        assert_eq!(&turn.id, id, "two turns at once");
        turn.event(event, &self.messages);
        if event.name == "turn_completed" {
            self.ended.push(id.clone());
            self.turn = None;
        }
    }

    /// A turn that was queued and never began: why, and its end, whatever else runs.
    fn left(&mut self, event: &Event) {
        let id = event.turn_id();
        if event.name == "turn_failed" {
            assert_eq!(self.left.replace(id.clone()), None, "{}", event.json);
            return;
        }
        assert_eq!(self.left.take().as_ref(), Some(id), "of no turn that began: {}", event.json);
        assert!(["canceled", "error"].contains(&event.json["finish_reason"].as_str().expect("a reason")));
        self.ended.push(id.clone());
    }
}

impl Turn {
    fn event(&mut self, event: &Event, messages: &Messages) {
        let json = &event.json;
        assert_eq!(self.started, event.name != "turn_started", "turn_started comes once, after the user message");
        assert!(!self.failed || ["agent_status_changed", "turn_completed"].contains(&event.name.as_str()), "{json}");
        assert!(!self.idle || event.name == "turn_completed", "idle, and yet {json}");
        match event.name.as_str() {
            "turn_started" => {
                assert_eq!(json["user_message_id"], self.user_message);
                assert!(json["model"].is_string());
                self.started = true;
            }
            "agent_status_changed" => match json["status"].as_str() {
                Some("idle") => self.idle = true,
                status => assert!(matches!(status, Some("processing" | "waiting_permission")), "{status:?}"),
            },
            "message_created" => self.created(&json["message"], messages),
            "message_updated" => {
                let message = &json["message"];
                assert_eq!(self.open.as_ref(), Some(&message["id"]), "an update of a message that is whole: {json}");
                if message["role"] == "tool" && message["finished_at"].is_string() {
                    self.close();
                }
            }
            "content_delta" | "reasoning_delta" | "tool_input_delta" => {
                assert_eq!(self.open.as_ref(), Some(&json["message_id"]), "a delta of a message that is whole: {json}");
                assert!(json["text"].as_str().is_some_and(|text| !text.is_empty()), "an empty delta: {json}");
            }
            "message_completed" => {
                let message = messages.get(&json["message_id"]).expect("a message that was created");
                assert_eq!(message["role"], "assistant");
                let finish = message["parts"].as_array().and_then(|parts| parts.last()).expect("a part");
                assert_eq!((&finish["type"], &finish["reason"]), (&"finish".into(), &json["finish_reason"]));
                if message["usage"].is_object() {
                    assert_eq!(message["usage"], json["usage"]);
                }
                if self.open.as_ref() == Some(&json["message_id"]) {
                    self.close();
                }
                if self.summary.as_ref() != Some(&json["message_id"]) {
                    self.last_answer = Some(json["message_id"].clone());
                }
            }
            "tool_call_started" => {
                self.names_a_result(json, messages);
                assert_eq!(self.calls.insert(call_id(json), false), None, "started twice: {json}");
            }
            "tool_output_delta" => {
                self.names_a_result(json, messages);
                assert_eq!(self.calls.get(&call_id(json)), Some(&false), "output of a call that does not run: {json}");
            }
            "tool_call_completed" => {
                self.names_a_result(json, messages);
                assert_eq!(
                    self.calls.insert(call_id(json), true),
                    Some(false),
                    "not started, or completed twice: {json}"
                );
            }
            "model_retry" => assert_eq!(self.open, None),
            "context_compacted" => {
                assert_eq!(self.open, None, "between two answers: {json}");
                if let Some(id) = json.get("summary_message_id") {
                    assert_eq!(messages.get(id).expect("a message that was created")["role"], "assistant");
                    self.summary = Some(id.clone());
                }
            }
            "files_changed" => {
                assert_eq!((&json["by"], self.open.as_ref()), (&"after_turn".into(), None), "{json}");
                assert!(json["files"].as_array().is_some_and(|files| !files.is_empty()), "nothing changed: {json}");
            }
            "permission_requested" | "permission_resolved" => {}
            "turn_failed" => self.failed = true,
            "turn_completed" => self.completed(json),
            other => panic!("{other} has no place in a turn: {json}"),
        }
    }

    fn created(&mut self, message: &Value, messages: &Messages) {
        assert_eq!(self.open, None, "two messages grow at once: {message}");
        let parts = message["parts"].as_array().expect("parts");
        assert!(!parts.is_empty(), "a message appears with its first part");
        self.open = Some(message["id"].clone());
        if message["role"] == "tool" {
            let answer = self.before.as_ref().and_then(|id| messages.get(id)).expect("an answer before it");
            assert_eq!(ids(answer, "tool_call", "id"), ids(message, "tool_result", "tool_call_id"));
        }
        if message["finished_at"].is_string() {
            self.close();
        }
    }

    fn close(&mut self) {
        self.before = self.open.take();
    }

    fn names_a_result(&self, json: &Value, messages: &Messages) {
        assert_eq!(self.open.as_ref(), Some(&json["message_id"]), "{json}");
        let message = messages.get(&json["message_id"]).expect("a message that was created");
        assert_eq!(message["role"], "tool");
        let part = &message["parts"][json["part_index"].as_u64().expect("an index") as usize];
        assert_eq!(part["tool_call_id"], json["tool_call_id"]);
    }

    fn completed(&self, json: &Value) {
        assert!(self.idle, "the status is idle before the turn is completed");
        assert_eq!(self.open, None, "a message without end");
        assert!(self.calls.values().all(|completed| *completed), "a call without end: {:?}", self.calls);
        assert_eq!(json.get("message_id"), self.last_answer.as_ref());
        assert_ne!(json["finish_reason"], "tool_use", "never the reason of a turn");
        let well = ["end_turn", "stop", "refused"].contains(&json["finish_reason"].as_str().expect("a reason"));
        assert_eq!(well, !self.failed, "turn_failed says why a turn did not end well: {json}");
    }
}

fn call_id(json: &Value) -> String {
    json["tool_call_id"].as_str().expect("an id").to_owned()
}

fn ids<'a>(message: &'a Value, kind: &str, field: &str) -> Vec<&'a Value> {
    let parts = message["parts"].as_array().expect("parts").iter();
    parts.filter(|part| part["type"] == kind).map(|part| &part[field]).collect()
}

/// Parts are only added at the end, none changes its kind, and what was streamed is what stays.
fn replaces(before: &Value, after: &Value) {
    for field in ["id", "session_id", "role", "created_at", "model", "turn_id"] {
        assert_eq!(before.get(field), after.get(field), "{field}");
    }
    let (before, after) = (before["parts"].as_array().expect("parts"), after["parts"].as_array().expect("parts"));
    assert!(before.len() <= after.len(), "parts went: {before:?} -> {after:?}");
    for (old, new) in before.iter().zip(after) {
        assert_eq!(old["type"], new["type"], "a part changed its kind");
        match old["type"].as_str().expect("a type") {
            "text" => assert_eq!(old["text"], new["text"], "the deltas are the text"),
            "reasoning" => assert_eq!(old["thinking"], new["thinking"], "the deltas are the reasoning"),
            "tool_call" => {
                assert_eq!((&old["id"], &old["name"]), (&new["id"], &new["name"]));
                same_input(&old["input"], new);
            }
            "tool_result" => assert_eq!(old["tool_call_id"], new["tool_call_id"]),
            _ => assert_eq!(old, new),
        }
    }
}

fn same_input(old: &Value, new: &Value) {
    if &new["input"] == old {
        return;
    }
    let text = old.as_str().expect("an input that is complete does not change");
    if new["truncated"] == true {
        assert!(text.starts_with(new["input"].as_str().expect("text")), "the beginning of what was streamed");
    } else if new["input"].is_object() {
        let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Object(serde_json::Map::new()));
        assert_eq!(parsed, new["input"], "the deltas are the input");
    } else {
        assert!(new["input"].as_str().is_some_and(|new| new.starts_with(text)), "{old} -> {new}");
    }
}
