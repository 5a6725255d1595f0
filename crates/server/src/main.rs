//! The `amalgam` binary: server, worker and command line in one.

mod bar;
mod cli;
mod commands;
mod config;
mod limits;
mod report;
mod size;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use report::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    fault::start();
    end_with_the_reader();
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(report::FAILED);
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => commands::serve::run(args).await,
        Command::Worker(args) => commands::worker::run(args).await,
        Command::Keys(args) => commands::keys::run(args).await,
        Command::Backup(args) => commands::backup::run(args).await,
        Command::Merge(args) => {
            let as_json = args.reading.json;
            commands::merge::run(args).await.map_err(|failure| failure.in_json(as_json))
        }
        Command::Check(args) => commands::check::run(&args).map_err(|failure| failure.in_json(args.reading.json)),
        Command::Plan(args) => commands::plan::run(&args).await.map_err(|failure| failure.in_json(args.reading.json)),
        Command::Convert(args) => {
            let as_json = args.json;
            commands::convert::run(args).await.map_err(|failure| failure.in_json(as_json))
        }
        Command::Submit(args) => commands::submit::run(args).await,
        Command::Watch(args) => commands::watch::run(args).await,
        Command::Jobs(args) => commands::jobs::run(args).await,
        Command::Cancel(args) => commands::cancel::run(args).await,
        Command::Retry(args) => commands::retry::run(args).await,
        Command::Delete(args) => commands::delete::run(args).await,
        Command::Logs(args) => commands::logs::run(args).await,
        Command::Events(args) => commands::events::run(args).await,
        Command::Artifacts(args) => commands::artifacts::run(args).await,
        Command::Demo(args) => commands::demo::run(args).await,
    }
}

/// Who reads the output may stop early (`amalgam plan RECIPE | head`); printing then panics, which is no fault to tell of.
fn end_with_the_reader() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|message| message.starts_with("failed printing to stdout")) {
            std::process::exit(0);
        }
        told(panic);
    }));
}

/// A merge keeps the shards of all its models open; the soft limit of many systems is 1024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // without the right to it things are as they were
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
