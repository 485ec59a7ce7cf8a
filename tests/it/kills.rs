//! A campaign against the server: it is killed at random points of its turns, started again on the same folder, and
//! everything that was shown has to be there. `OPENCODE_TEST_KILLS` is how often (200), `OPENCODE_TEST_SEED` what
//! chance begins with; it is printed where something is found.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::support::{
    Dialect, Door, Event, Model, Server, Setup, Step, Value,
    dice::Dice,
    grammar,
    model::{bash, call, text},
    power,
    processes::Mark,
    repeats::Tried,
    soon, until,
};

/// Servers side by side.
const LANES: u64 = 8;
/// One kill in so many takes the machine's power with it.
const POWER: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_shown_is_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let kills = number("OPENCODE_TEST_KILLS").unwrap_or(200);
    let seed = number("OPENCODE_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64 >> 16);
    let began = std::time::Instant::now();
    let lanes = (0..LANES).map(|lane| {
        let kills = kills / LANES + u64::from(lane < kills % LANES);
        async move {
            let mut lane = Lane::new(seed, lane).await;
            for _ in 0..kills {
                lane.live_and_die().await;
            }
            lane.settle().await;
        }
    });
    join_all(lanes).await;
    println!("{kills} kills in {:?}", began.elapsed());
}

/// One server after the other on one folder.
struct Lane {
    dice: Dice,
    /// Says how to have this again.
    story: Story,
    model: Model,
    setup: Setup,
    mark: Mark,
    door: Door,
    /// What any reader was shown, by number.
    seen: BTreeMap<u64, Event>,
    /// Where the readers were, one for each door.
    places: [Option<String>; 2],
    /// The last message that was sent.
    sent: Option<Sent>,
    /// How much of what the model was asked is checked.
    asked: usize,
    /// What a power cut took; 0 is nothing.
    cut_to: u64,
    number: u64,
}

/// A message that may or may not have arrived.
#[derive(Clone, Debug)]
struct Sent {
    key: String,
    wish: Value,
    /// The session that it was sent to.
    session: Value,
    /// Somebody was told that it was accepted.
    accepted: bool,
}

struct Story {
    seed: u64,
    lane: u64,
    lives: u64,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, lane, lives } = self;
            eprintln!("in life {lives} of lane {lane} with OPENCODE_TEST_SEED={seed}");
        }
    }
}

type Reader = JoinHandle<Vec<Event>>;

impl Lane {
    async fn new(seed: u64, lane: u64) -> Self {
        let dialect = if lane.is_multiple_of(2) { Dialect::Anthropic } else { Dialect::OpenAi };
        let model = Model::start(dialect, []).await;
        let setup = Setup::with(&model).env("OPENCODE_TITLE_MODEL", "none").env("OPENCODE_PERMISSION_MODE", "auto");
        let (setup, mark) = setup.marked();
        Self {
            dice: Dice::new(seed.wrapping_add(lane << 48)),
            story: Story { seed, lane, lives: 0 },
            model,
            setup,
            mark,
            door: if lane < 2 { Door::Rest } else { Door::Grpc },
            seen: BTreeMap::new(),
            places: [None, None],
            sent: None,
            asked: 0,
            cut_to: 0,
            number: 0,
        }
    }

    async fn start(&mut self) -> Server {
        self.story.lives += 1;
        let setup = self.setup.clone();
        spawn_blocking(move || setup.start()).await.expect("it starts")
    }

    /// One life: what the last one left is checked, something is begun, and in the middle of it comes the end.
    async fn live_and_die(&mut self) {
        let mut server = self.start().await;
        let readers = self.resume(&server).await;
        // Now and then it dies while it is still at what the last one left.
        if !self.dice.once_in(4) {
            self.check(&server).await;
            self.send_again(&server).await;
            self.cut_to = 0;
        }
        let session = server.rest.read("/session").await["id"].clone();
        let acting = self.act(&server, &session);
        let before = if self.dice.once_in(2) { 40 } else { 400 };
        tokio::time::sleep(self.dice.millis(before)).await;
        spawn_blocking(move || server.kill()).await.expect("it is killed");
        for (place, reader) in readers.into_iter().enumerate() {
            let events = soon("the end of a reader", reader).await.expect("a reader");
            self.note(place, events);
        }
        for (sent, tried) in acting {
            let tried = soon("the end of a request", tried).await.expect("an answer or none");
            if let Tried::Refused(why) = &tried {
                assert!(
                    ["409", " runs", " wait"].iter().any(|word| why.contains(word)),
                    "only where another turn runs: {why}"
                );
            }
            if matches!(tried, Tried::Accepted(false)) || self.sent.is_none() {
                let accepted = matches!(tried, Tried::Accepted(_));
                self.sent = Some(Sent { accepted, ..sent });
            }
        }
        let asks = self.model.journal();
        for ask in &asks[self.asked..] {
            // Every call with its result, in order: it judges as it reads.
            ask.conversation();
        }
        self.asked = asks.len();
        if self.dice.once_in(POWER) {
            self.cut_power();
        }
    }

    /// At the end: it runs, and the last of all is right too.
    async fn settle(&mut self) {
        let server = self.start().await;
        self.check(&server).await;
        self.next_message_works(&server).await;
    }

    /// Readers that go on where they were, one for each door.
    async fn resume(&self, server: &Server) -> Vec<Reader> {
        let mut readers = Vec::new();
        for (door, place) in [Door::Rest, Door::Grpc].into_iter().zip(&self.places) {
            let after = place.clone().unwrap_or_else(|| "0".into());
            let mut stream = server.through(door).stream_events(json!({ "after": after })).await.expect("a stream");
            readers.push(tokio::spawn(async move {
                let mut events = Vec::new();
                while let Some(event) = stream.event_before_cut().await {
                    events.push(event);
                }
                events
            }));
        }
        readers
    }

    /// What a reader was shown goes on where the last one was, without a gap, or it was told that this cannot be.
    fn note(&mut self, reader: usize, events: Vec<Event>) {
        let mut last = self.places[reader].as_ref().map(|place| seq_of(place));
        for event in events {
            if event.name == "resync_required" {
                let reason = event.json["reason"].as_str().expect("a reason");
                assert!(["expired", "lost"].contains(&reason), "{}", event.json);
                last = Some(seq_of(&event.id));
            } else {
                let seq = event.seq();
                if let Some(last) = last.filter(|_| event.name != "session_reset") {
                    assert_eq!(seq, last + 1, "a reader goes on where it was: {}", event.json);
                }
                last = Some(seq);
                if let Some(before) = self.seen.insert(seq, event.clone()) {
                    assert_eq!(before.json, event.json, "shown again as something else");
                }
            }
            self.places[reader] = Some(event.id);
        }
    }

    /// Everything that was shown is there, and all that is there is right.
    async fn check(&mut self, server: &Server) {
        until("the end of what the last server ran", async || self.mark.others(server).is_empty().then_some(())).await;
        let file = self.setup.data_dir().join("log.sqlite3");
        let sound = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        let sound = sound.expect("the log").query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(sound.as_deref(), Ok("ok"));
        // What was queued goes on by itself; nothing else does.
        let turns = until("the end of what was queued", async || {
            let turns = server.rest.read("/turns?limit=200").await;
            let all = turns["turns"].as_array().expect("turns");
            all.iter().all(|turn| turn["status"] == "completed").then_some(turns)
        });
        turns.await;
        let log = server.rest.log().await;
        let folded = grammar::check(&log);
        assert_eq!(folded.0, server.rest.messages().await);
        let floor = log.first().map_or(u64::MAX, Event::seq);
        self.seen = self.seen.split_off(&floor.min(self.seen.last_key_value().map_or(0, |(seq, _)| seq + 1)));
        for (seq, event) in &self.seen {
            assert_eq!(&log[(seq - floor) as usize].json, &event.json, "it was shown");
        }
        let agent = server.rest.read("/agent/status").await;
        assert_eq!(agent["status"], "idle", "{agent}");
    }

    /// The message whose fate is unknown is sent again, as a client would: it is there once.
    async fn send_again(&mut self, server: &Server) {
        let Some(sent) = self.sent.take() else { return };
        self.script();
        let client = server.through(if self.dice.once_in(2) { Door::Rest } else { Door::Grpc });
        let (turn, replayed) = client.begin_keyed(&sent.wish, &sent.key).await.expect("a turn");
        if sent.accepted && self.cut_to == 0 {
            assert!(replayed, "it was accepted before");
        }
        let id = &turn["id"];
        if self.dice.once_in(2) {
            server.rest.ended_turn(id).await;
            let words = sent.wish["parts"][0]["text"].as_str().expect("words");
            let said = server.rest.messages().await;
            let times = said.iter().filter(|said| said["role"] == "user" && said["parts"][0]["text"] == words).count();
            // A reset takes it, or cancels it while it waits.
            let was_reset = server.rest.read("/session").await["id"] != sent.session;
            assert!(times == 1 || was_reset && times == 0, "{words} was said {times} times: {sent:?}");
            self.next_message_works(server).await;
        }
    }

    async fn next_message_works(&mut self, server: &Server) {
        self.model.forget();
        self.model.then(vec![text("Well.")]);
        let sent = server.rest.ask("Does it work?").await;
        assert_eq!(sent["turn"]["finish_reason"], "end_turn", "{sent}");
    }

    /// Begins something. Answers what is on its way.
    fn act(&mut self, server: &Server, session: &Value) -> Vec<(Sent, JoinHandle<Tried>)> {
        self.script();
        let mut acting = Vec::new();
        for index in 0..=self.dice.below(3) {
            self.number += 1;
            let key = format!("{}-{}", self.story.lane, self.number);
            let mut wish = json!({"parts": [{"type": "text", "text": format!("Go on, number {}.", self.number)}]});
            if index > 0 {
                wish["when_busy"] = ["queue", "steer"][self.dice.below(2) as usize].into();
            }
            let (client, sent) = (
                server.through(self.door),
                Sent { key: key.clone(), wish: wish.clone(), session: session.clone(), accepted: false },
            );
            acting.push((sent, tokio::spawn(async move { client.try_keyed(&wish, &key).await })));
        }
        let (cancel, reset) = (self.dice.once_in(4), self.dice.once_in(12));
        let after = self.dice.millis(150);
        let rest = server.rest.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            for (wanted, path) in [(cancel, "/agent/cancel"), (reset, "/session/reset")] {
                if wanted {
                    let _ = rest.request("POST", path).send().await;
                }
            }
        });
        acting
    }

    /// Answers of all kinds for the model.
    fn script(&mut self) {
        self.model.forget();
        for _ in 0..2 {
            let mut answer = vec![Step::Slowly("I do what I can.".into(), Duration::from_millis(self.dice.below(8)))];
            for _ in 0..self.dice.below(4) {
                answer.push(match self.dice.below(5) {
                    0 => call("view", &json!({"path": "README.md"})),
                    1 => call("write", &json!({"path": format!("f{}.txt", self.number), "content": "new\n"})),
                    2 => bash("echo a; sleep 0.05; echo b"),
                    3 => bash("setsid sleep 1001 & (sleep 1001 &) ; echo on; sleep 0.2"),
                    _ => bash("trap '' TERM; for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.02; done"),
                });
            }
            self.model.then(answer);
        }
        self.model.then(vec![text("Done.")]);
    }

    /// What was not synced is gone, and what only it had shown is forgotten.
    fn cut_power(&mut self) {
        let acts = [
            "session_created",
            "turn_started",
            "tool_call_started",
            "turn_completed",
            "session_reset",
            "files_changed",
        ];
        let act = self.seen.values().rev().find(|event| acts.contains(&event.name.as_str())).map_or(0, Event::seq);
        let left = power::cut(&self.setup.data_dir(), act, &mut self.dice);
        self.cut_to = left;
        let lost = self.seen.split_off(&(left + 1));
        assert!(!lost.values().any(|event| acts.contains(&event.name.as_str())), "an act was lost: {lost:?}");
    }
}

fn seq_of(cursor: &str) -> u64 {
    cursor.rsplit_once('-').and_then(|(_, seq)| seq.parse().ok()).expect("a cursor")
}
