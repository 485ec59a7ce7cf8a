//! Measures the built binary as its users meet it: over sockets, in a process of its own. Prints one Markdown table.
//!
//! `cargo bench` measures all; `cargo bench -- NAME` one group of rows (`cargo bench -- help` names them). Nothing
//! here is asserted: a figure on a busy machine says nothing about the code. `BENCH_BINARY` names another build of the
//! server to measure.

mod access;
mod cancel;
mod fanout;
mod files;
mod model;
mod page;
mod peer;
mod process;
mod rate;
mod readers;
mod replay;
mod start;
mod table;
mod tree;
mod turn;

use std::process::ExitCode;

use table::{Row, Table};

/// What goes wrong here is told, not handled.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

type Group = (&'static str, fn(&mut Table) -> Result<()>);

/// The groups of rows, in the order of the table.
const GROUPS: [Group; 13] = [
    ("start", start::measure),
    ("idle", start::measure_idle),
    ("stop", access::measure_stop),
    ("rate", rate::measure),
    ("access", access::measure),
    ("keys", access::measure_keys),
    ("turn", turn::measure),
    ("cancel", cancel::measure),
    ("fanout", fanout::measure),
    ("replay", replay::measure),
    ("page", page::measure),
    ("files", files::measure),
    ("busy", files::measure_turn),
];

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = process::raise_fd_limit().and_then(|()| match words[..] {
        // This binary is also the other processes that it measures with.
        [peer::ARGUMENT] => peer::run(),
        [readers::ARGUMENT, address] => readers::run(address),
        _ => measure(&words),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(names: &[&str]) -> Result<()> {
    let known = GROUPS.map(|(name, _)| name);
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("\"{unknown}\" is no group; there are {}", known.join(", ")).into());
    }
    let mut table = Table::default();
    let mut failures = 0;
    for (name, measure) in GROUPS {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        eprintln!("measuring {name} (load average {})", process::load());
        if let Err(error) = measure(&mut table) {
            failures += 1;
            table.add(Row::new(format!("({name} failed)"), "", error.to_string(), ""));
        }
    }
    println!("\n{}\n\n{table}", process::machine());
    if failures == 0 { Ok(()) } else { Err(format!("{failures} group(s) could not be measured").into()) }
}
