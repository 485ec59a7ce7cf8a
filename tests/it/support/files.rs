//! The operations of files through any door, with one answer for all of them.

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};

use super::{
    Answer,
    doors::{Client, Door, Outcome, Refusal, Reply, refusal},
};

/// What may stand in a path as it is; a slash does not, so that no client of HTTP tidies the path up.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// A route of a file.
pub fn route(route: &str, path: impl AsRef<[u8]>) -> String {
    format!("{route}/{}", percent_encode(path.as_ref(), NAME))
}

impl Client {
    /// `query` as REST has it.
    pub async fn list_files(&self, query: Value) -> Outcome {
        if self.door == Door::Rest {
            let mut pairs = Vec::new();
            for (name, value) in query.as_object().expect("a query") {
                let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                pairs.extend(values.into_iter().map(|value| match value {
                    Value::String(text) => (name.clone(), text),
                    other => (name.clone(), other.to_string()),
                }));
            }
            let query = serde_urlencoded::to_string(pairs).expect("a query");
            return super::doors::whole(self.rest.get(&format!("/files?{query}")).await);
        }
        let mut wish = query.as_object().expect("a query").clone();
        let mut page = json!({});
        for name in ["limit", "cursor", "offset"] {
            if let Some(value) = wish.remove(name) {
                page[name] = value;
            }
        }
        wish.insert("pagination".into(), page);
        self.unary("ListFiles", wish.into()).await
    }

    /// The names that a list shows.
    pub async fn names(&self, query: Value) -> Vec<String> {
        let body = self.list_files(query).await.expect("a list").body;
        let files = body["files"].as_array().expect("files").iter();
        files.map(|file| file["path"].as_str().expect("a path").to_owned()).collect()
    }

    /// `wish` has `encoding`, `offset`, `length`, `if_match`, `if_none_match`. Content in base64 where it is no text.
    pub async fn read_file(&self, path: &str, wish: Value) -> Outcome {
        if self.door == Door::Rest {
            let (query, headers) = halves(&wish);
            let mut request = self.rest.request("GET", &format!("{}?{query}", route("/files", path)));
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = Answer::of(request).await;
            if answer.status == 304 {
                assert!(answer.body.is_empty() && answer.header("etag").is_some());
                return Ok(Reply { body: json!({"not_modified": true}), cursor: None });
            }
            let etag = answer.header("etag").map(str::to_owned);
            let reply = super::doors::whole(answer)?;
            let told = reply.body["file_info"]["etag"].as_str().expect("an etag");
            assert_eq!(etag, Some(format!("\"{told}\"")));
            return Ok(reply);
        }
        let mut reply = self.unary("ReadFile", with_path(wish, path)).await?;
        let body = reply.body.as_object_mut().expect("an answer");
        let data = body.remove("data").expect("data");
        if body.remove("not_modified") == Some(json!(true)) {
            assert_eq!(data, "");
            return Ok(Reply { body: json!({"not_modified": true}), cursor: None });
        }
        if body["encoding"] == "base64" {
            assert_eq!(body["content"], "");
            body["content"] = data;
        }
        Ok(reply)
    }

    /// `wish` has `content`, `encoding`, `create_dirs`, `if_match`, `if_none_match`. Answers `{file_info, created}`.
    pub async fn write_file(&self, path: &str, wish: Value) -> Outcome {
        if self.door != Door::Rest {
            return self.unary("WriteFile", with_path(wish, path)).await;
        }
        let mut body = wish.clone();
        let mut request = self.rest.request("PUT", &route("/files", path));
        for (name, header) in CONDITIONS {
            if let Some(value) = body.as_object_mut().expect("a wish").remove(name) {
                request = request.header(header, value.as_str().expect("a tag"));
            }
        }
        let answer = Answer::of(request.json(&body)).await;
        let created = answer.status == 201;
        if answer.status != 200 && !created {
            return Err(refusal(answer));
        }
        let status = answer.status;
        Ok(Reply { body: json!({"file_info": answer.json_with(status), "created": created}), cursor: None })
    }

    /// `wish` has `recursive`, `if_match`, `if_none_match`.
    pub async fn delete_file(&self, path: &str, wish: Value) -> Result<(), Refusal> {
        if self.door != Door::Rest {
            return self.unary("DeleteFile", with_path(wish, path)).await.map(|_| ());
        }
        let (query, headers) = halves(&wish);
        let mut request = self.rest.request("DELETE", &format!("{}?{query}", route("/files", path)));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        super::doors::whole(Answer::of(request).await).map(|_| ())
    }
}

const CONDITIONS: [(&str, &str); 2] = [("if_match", "if-match"), ("if_none_match", "if-none-match")];

/// What goes into the query, and what into headers.
fn halves(wish: &Value) -> (String, Vec<(&'static str, String)>) {
    let (mut query, mut headers) = (Vec::new(), Vec::new());
    for (name, value) in wish.as_object().expect("a wish") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match CONDITIONS.iter().find(|(field, _)| field == name) {
            Some((_, header)) => headers.push((*header, text)),
            None => query.push((name.clone(), text)),
        }
    }
    (serde_urlencoded::to_string(query).expect("a query"), headers)
}

fn with_path(mut wish: Value, path: &str) -> Value {
    wish["path"] = path.into();
    wish
}

/// Bytes as base64.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}
