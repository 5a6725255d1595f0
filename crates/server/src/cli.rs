//! The command line.

use std::path::PathBuf;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigArgs, MergeArgs};
use crate::report::Failure;
use crate::size::Bytes;

/// Shown below the help of every command that a pipeline may call.
const EXIT_CODES: &str = "Exit codes:
  0      done; with --watch or --wait also: the job succeeded, or goes on
  1      it failed: the job failed or was cancelled, or the server cannot be reached or cannot do it
  2      refused: a mistake in the command, the recipe or the request, or the key may not do it
  128+n  ended by signal n while watching: 130 by Ctrl-C, 143 by SIGTERM

With --json standard output holds JSON alone, and everything else goes to standard error.";

/// Merges language models: as a service, or right here.
#[derive(Debug, Parser)]
#[command(name = "amalgam", version, propagate_version = true, after_help = EXIT_CODES)]
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
    /// Make, list and revoke the API keys of a server.
    Keys(KeysArgs),
    /// Copy the SQLite database to a file, while it is in use.
    Backup(BackupArgs),
    /// Merge here, without a server.
    Merge(MergeCommand),
    /// Check a recipe; models that are on this machine are checked by their headers.
    Check(CheckArgs),
    /// Dry run: what a merge would write and need, from headers alone.
    #[command(after_help = EXIT_CODES)]
    Plan(PlanArgs),
    /// Make safetensors of a model that torch pickled (`pytorch_model.bin`, `.pt`, `.pth`), running nothing of it.
    Convert(ConvertArgs),
    /// Submit a recipe to a server.
    #[command(after_help = EXIT_CODES)]
    Submit(SubmitArgs),
    /// Watch a job or a group to its end.
    #[command(after_help = EXIT_CODES)]
    Watch(WatchArgs),
    /// List the jobs of a server.
    #[command(after_help = EXIT_CODES)]
    Jobs(JobsArgs),
    /// Cancel a job, or all of a group.
    #[command(after_help = EXIT_CODES)]
    Cancel(CancelArgs),
    /// Do a job that is over again, as a new one.
    #[command(after_help = EXIT_CODES)]
    Retry(RetryArgs),
    /// Forget a job that is over.
    #[command(after_help = EXIT_CODES)]
    Delete(DeleteArgs),
    /// Show the log of a job.
    #[command(after_help = EXIT_CODES)]
    Logs(LogsArgs),
    /// Follow the events of all jobs, until interrupted.
    #[command(after_help = EXIT_CODES)]
    Events(EventsArgs),
    /// List the files that a job or a group has published, and download them.
    #[command(after_help = EXIT_CODES)]
    Artifacts(ArtifactsArgs),
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
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key, and show it once. From the first key on the server asks for one.
    Create {
        /// What the key is for.
        #[arg(long)]
        name: String,
        /// Whose jobs it sees and makes: its outputs go to a directory of this name below each output root.
        #[arg(long)]
        tenant: String,
        /// What it may do: jobs:read, jobs:write, admin, worker, metrics; repeatable.
        #[arg(long, required = true, value_delimiter = ',', value_parser = scope)]
        scope: Vec<jobs::Scope>,
        /// Jobs that were made while the server asked for no keys become this tenant's.
        #[arg(long)]
        adopt: bool,
        /// It ends after so many days; never by default.
        #[arg(long)]
        expires_days: Option<u16>,
        /// Write JSON: the key beside what is known of it.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: Box<ConfigArgs>,
    },
    /// List keys, without what is secret of them.
    List {
        /// Write JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: Box<ConfigArgs>,
    },
    /// End a key at once.
    Revoke {
        /// The id of the key, as `amalgam keys list` shows it.
        id: String,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: Box<ConfigArgs>,
    },
}

impl KeysCommand {
    /// The settings that say which database it is about.
    pub fn config(&self) -> ConfigArgs {
        match self {
            Self::Create { config, .. } | Self::List { config, .. } | Self::Revoke { config, .. } => (**config).clone(),
        }
    }
}

impl KeysCommand {
    pub fn is_json(&self) -> bool {
        let (Self::Create { json, .. } | Self::List { json, .. } | Self::Revoke { json, .. }) = self;
        *json
    }
}

fn scope(word: &str) -> Result<jobs::Scope, String> {
    jobs::Scope::parse(word).ok_or_else(|| {
        let known: Vec<&str> = jobs::Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        format!("{word:?} is no scope; there are {}", known.join(", "))
    })
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
    /// Let the server plan it, with its models and its settings, rather than this machine.
    #[arg(long, conflicts_with = "variant")]
    pub remote: bool,
    #[command(flatten)]
    pub server: ServerAddress,
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
    #[command(flatten)]
    pub address: ServerAddress,
    /// Write JSON to standard output, one document a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ServerAddress {
    /// Address of the server.
    #[arg(long, env = "AMALGAM_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// An API key, where the server asks for one. Better in the environment: others see the flags of a process.
    #[arg(long, env = "AMALGAM_API_KEY", hide_env_values = true)]
    pub api_key: Option<ApiKeyText>,
    /// How long a server is waited for that says to come again (429, 503); at most 10 of these for one that is not there.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub patience: u64,
}

impl ServerUrl {
    pub fn client(&self) -> Result<client::Client, Failure> {
        self.address.client(self.json)
    }
}

/// Shorter waits are not worth a line.
const TOLD_WAIT: Duration = Duration::from_secs(1);

impl ServerAddress {
    pub fn client(&self, as_json: bool) -> Result<client::Client, Failure> {
        let key = self.api_key.as_ref().map(|key| key.0.clone()).filter(|key| !key.is_empty());
        let client = client::Client::new(&self.url).map_err(|error| Failure::client(error, as_json))?;
        let told = |error: &client::ClientError, wait: Duration| {
            if wait >= TOLD_WAIT {
                eprintln!("{error}; trying again in {} s", wait.as_secs());
            }
        };
        Ok(client.with_key(key).with_patience(Duration::from_secs(self.patience)).on_wait(told))
    }
}

/// Its text appears in no log.
#[derive(Clone)]
pub struct ApiKeyText(String);

impl std::str::FromStr for ApiKeyText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl std::fmt::Debug for ApiKeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The recipe, a YAML file; `-` reads standard input.
    pub recipe: PathBuf,
    /// Where the artifact is to go, below an output root of the server; each variant goes to a folder of its name there.
    #[arg(long)]
    pub output: Option<String>,
    /// An https address that is told what becomes of the job.
    #[arg(long)]
    pub webhook: Option<String>,
    /// Unknown names are warnings, not errors.
    #[arg(long)]
    pub lenient: bool,
    /// By which the job can be found; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// What is kept with the job and given back; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub metadata: Vec<String>,
    /// -1000 to 1000, higher goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub priority: Option<i64>,
    /// 1 to 10; 3 by default.
    #[arg(long)]
    pub max_attempts: Option<u32>,
    /// Stop an attempt that takes longer.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Give up when no worker has begun the job for so long.
    #[arg(long, value_name = "SECONDS")]
    pub queue_ttl: Option<u64>,
    /// Not to be begun before, as 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub run_at: Option<String>,
    /// Succeed with what another job has published for the same plan.
    #[arg(long)]
    pub reuse: bool,
    /// Only workers that carry this label take the job; repeatable.
    #[arg(long, value_name = "LABEL")]
    pub worker_label: Vec<String>,
    /// The same request with the same key makes one job, also when the command is run again.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Answer when the job is over, or after so many seconds, 60 at most; one that goes on is no failure.
    #[arg(long, value_name = "SECONDS", conflicts_with = "watch", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: Option<u64>,
    /// Watch the job, or every variant's, to its end; the exit code says how it ended.
    #[arg(long)]
    pub watch: bool,
    /// Cancel the job when this command is interrupted (SIGINT, SIGTERM) while it watches; else the job goes on.
    #[arg(long, requires = "watch")]
    pub cancel_on_interrupt: bool,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Id of the job or group.
    pub job: String,
    /// Cancel it when this command is interrupted (SIGINT, SIGTERM); else it goes on.
    #[arg(long)]
    pub cancel_on_interrupt: bool,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct ArtifactsArgs {
    /// Id of the job or group.
    pub job: String,
    /// Download all of it into this directory, a group's variants into a directory each. What is there already is kept, what is
    /// there in part is gone on with, and every SHA-256 is checked; a file that differs is an error.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
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
pub struct RetryArgs {
    /// Id of the job.
    pub job: String,
    /// Another place for the artifact than that of the job.
    #[arg(long)]
    pub output: Option<String>,
    /// The same request with the same key makes one job, also when the command is run again.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Id of the job.
    pub job: String,
    /// Remove what it has published, too.
    #[arg(long)]
    pub artifacts: bool,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Id of the job.
    pub job: String,
    /// Go on until the job is over.
    #[arg(long)]
    pub follow: bool,
    /// Begin with the last so many lines.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    #[command(flatten)]
    pub server: ServerUrl,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Begin behind the event with this id; 0 is the oldest that is kept. By default from now on.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// End after so many events.
    #[arg(long)]
    pub limit: Option<u64>,
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
    /// Only jobs of this merge method.
    #[arg(long)]
    pub method: Option<String>,
    /// Only jobs with this label; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Only jobs made then or later, as 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub created_after: Option<String>,
    /// Only jobs made before then.
    #[arg(long, value_name = "TIME")]
    pub created_before: Option<String>,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
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
