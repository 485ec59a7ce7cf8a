//! The messages as a client builds them from events.

use serde_json::Value;

use super::Event;

/// Messages in order, each as the client has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages(pub Vec<Value>);

impl Messages {
    pub fn get(&self, id: &Value) -> Option<&Value> {
        self.0.iter().find(|message| &message["id"] == id)
    }

    fn get_mut(&mut self, id: &Value) -> Option<&mut Value> {
        self.0.iter_mut().find(|message| &message["id"] == id)
    }

    /// The rule for those who read state first: an event about a message counts only above that message's `seq`,
    /// any other only above the `as_of_seq` of the read.
    pub fn follow(&mut self, event: &Event, as_of_seq: u64) {
        let about = event.message().map(|message| &message["id"]).or(event.json.get("message_id"));
        let known = about.and_then(|id| self.get(id)).and_then(|message| message["seq"].as_u64());
        if event.seq() > known.unwrap_or(as_of_seq) {
            self.apply(event);
        }
    }

    /// Applies an event. What is wrong about it fails the test.
    pub fn apply(&mut self, event: &Event) {
        let json = &event.json;
        match event.name.as_str() {
            "message_created" => {
                assert_eq!(self.get(&json["message"]["id"]), None, "created twice");
                self.0.push(json["message"].clone());
            }
            "message_updated" => {
                let message = self.get_mut(&json["message"]["id"]).expect("an update of a message that was created");
                *message = json["message"].clone();
            }
            "message_deleted" => self.0.retain(|message| message["id"] != json["message_id"]),
            "messages_cleared" | "session_reset" => self.0.clear(),
            "content_delta" => self.append(event, "text", "text"),
            "reasoning_delta" => self.append(event, "reasoning", "thinking"),
            "tool_input_delta" => self.append(event, "tool_call", "input"),
            "tool_output_delta" => self.append(event, "tool_result", "content"),
            "tool_call_completed" => self.complete(event),
            _ => {}
        }
    }

    /// A result is there, before its message is said again.
    fn complete(&mut self, event: &Event) {
        let json = &event.json;
        let message = self.get_mut(&json["message_id"]).expect("a result of a message that was created");
        message["seq"] = json["seq"].clone();
        let part = &mut message["parts"][json["part_index"].as_u64().expect("an index") as usize];
        let mut result = serde_json::json!({"type": "tool_result", "content": json["output"]});
        for field in ["tool_call_id", "is_error", "metadata", "truncated", "size"] {
            if let Some(value) = json.get(field) {
                result[field] = value.clone();
            }
        }
        *part = result;
    }

    fn append(&mut self, event: &Event, kind: &str, field: &str) {
        let json = &event.json;
        let message = self.get_mut(&json["message_id"]).expect("a delta of a message that was created");
        message["seq"] = json["seq"].clone();
        let parts = message["parts"].as_array_mut().expect("parts");
        let index = json["part_index"].as_u64().expect("an index") as usize;
        if index == parts.len() && (kind == "text" || kind == "reasoning") {
            parts.push(serde_json::json!({"type": kind, field: ""}));
        }
        let part =
            parts.get_mut(index).unwrap_or_else(|| panic!("a delta of part {index}, which is not there: {json}"));
        assert_eq!(part["type"], kind, "{json}");
        let Value::String(text) = &mut part[field] else { panic!("a delta of something complete: {json}") };
        text.push_str(json["text"].as_str().expect("text"));
    }
}
