//! Processes: those that the API tells of, and those that are there, known by a mark in their environment which they
//! inherit from the server, whatever they do.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    Server, Setup,
    doors::{Client, Outcome, text},
};

/// A variable that nobody else has.
const NAME: &str = "OPENCODE_TEST_MARK";

/// The mark of one server and all that comes of it.
#[derive(Clone)]
pub struct Mark(String);

impl Setup {
    /// With a mark that every process has which the server starts.
    pub fn marked(&self) -> (Self, Mark) {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        (self.env(NAME, &mark), Mark(format!("{NAME}={mark}")))
    }
}

impl Client {
    pub async fn list_processes(&self) -> Outcome {
        self.call(("GET", "/agent/processes", None), ("ListProcesses", json!({}))).await
    }

    pub async fn end_process(&self, id: &Value) -> Outcome {
        let path = format!("/agent/processes/{}", text(id));
        self.call(("DELETE", &path, None), ("EndProcess", json!({ "process_id": id }))).await
    }
}

impl Mark {
    /// Who has it and runs, without the server: `pid: command line` of each.
    pub fn others(&self, server: &Server) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|(pid, _)| *pid != server.pid()).map(|(pid, command)| format!("{pid}: {command}")).collect()
    }

    /// Who has it and runs, by process id, with the command line.
    pub fn all(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir("/proc").expect("the process table").map_while(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found: Vec<(u32, String)> = pids.filter_map(|pid| Some((pid, self.of(pid)?))).collect();
        found.sort_unstable();
        found
    }

    /// The command line of a process, if it has the mark.
    fn of(&self, pid: u32) -> Option<String> {
        let process = Path::new("/proc").join(pid.to_string());
        // Of a zombie there is nothing to be read.
        let environment = fs::read(process.join("environ")).ok()?;
        let is_marked = environment.split(|byte| *byte == 0).any(|variable| variable == self.0.as_bytes());
        let command = || fs::read(process.join("cmdline")).unwrap_or_default();
        is_marked.then(|| String::from_utf8_lossy(&command()).replace('\0', " ").trim_end().to_owned())
    }
}
