//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigArgs, MergeArgs};
use crate::size::Bytes;

/// Merges language models: as a service, or right here.
#[derive(Debug, Parser)]
#[command(name = "amalgam", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the HTTP API, with workers inside.
    Serve(ServeArgs),
    /// Run one more worker on the same database.
    Worker(WorkerArgs),
    /// Copy the SQLite database to a file, while it is in use.
    Backup(BackupArgs),
    /// Merge here, without a server.
    Merge(MergeCommand),
    /// Check a recipe; models that are on this machine are checked by their headers.
    Check(CheckArgs),
    /// Dry run: what a merge would write and need, from headers alone.
    Plan(PlanArgs),
    /// Make safetensors of a model that torch pickled (`pytorch_model.bin`, `.pt`, `.pth`), running nothing of it.
    Convert(ConvertArgs),
    /// Submit a recipe to a server.
    Submit(SubmitArgs),
    /// Watch a job or a group to its end.
    Watch(WatchArgs),
    /// List the jobs of a server.
    Jobs(JobsArgs),
    /// Cancel a job, or all of a group.
    Cancel(CancelArgs),
    /// Serve, merge the example models through the API, and go on serving.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Begins the worker's id; the host's name by default.
    #[arg(long)]
    pub name: Option<String>,
    /// Run what is queued, and end.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make; it must not exist.
    pub to: PathBuf,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct MergeCommand {
    /// The recipe, a YAML file; `-` reads standard input.
    pub recipe: PathBuf,
    /// The directory to make; it must not exist, or be empty.
    pub out: PathBuf,
    #[command(flatten)]
    pub merge: MergeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The recipe, a YAML file; `-` reads standard input.
    pub recipe: PathBuf,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The recipe, a YAML file; `-` reads standard input.
    pub recipe: PathBuf,
    /// List every tensor with its inputs and parameters.
    #[arg(long)]
    pub tensors: bool,
    #[command(flatten)]
    pub merge: MergeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The model's directory, or one file of `torch.save`.
    pub model: PathBuf,
    /// The directory to make; it must not exist, or be empty.
    pub out: PathBuf,
    /// Size of an output shard at most.
    #[arg(long, default_value = "5GB")]
    pub shard_bytes: Bytes,
    /// Write one JSON document to standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReadingArgs {
    /// Of a recipe with variants, only this one.
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Unknown names are warnings, not errors.
    #[arg(long)]
    pub lenient: bool,
    /// Write one JSON document to standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ServerUrl {
    /// Address of the server.
    #[arg(long, env = "AMALGAM_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Write JSON to standard output, one document a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The recipe, a YAML file; `-` reads standard input.
    pub recipe: PathBuf,
    /// Where the artifact is to go, below an output root of the server; each variant goes to a folder of its name there.
    #[arg(long)]
    pub output: Option<String>,
    /// Unknown names are warnings, not errors.
    #[arg(long)]
    pub lenient: bool,
    /// Watch the job, or every variant's, to its end; the exit code says how it ended.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Id of the job or group.
    pub job: String,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Id of the job or group.
    pub job: String,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Only jobs of this status; repeatable.
    #[arg(long)]
    pub status: Vec<String>,
    /// Only the jobs of this group.
    #[arg(long)]
    pub group: Option<String>,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after the merge instead of serving on.
    #[arg(long)]
    pub once: bool,
    /// The recipe to merge.
    #[arg(long, default_value = "examples/recipes/task-arithmetic.yml")]
    pub recipe: PathBuf,
    #[command(flatten)]
    pub config: ConfigArgs,
}
