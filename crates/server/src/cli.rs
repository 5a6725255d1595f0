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
    /// Make, list and revoke the API keys of a server.
    Keys(KeysArgs),
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
    /// List the files that a job has published, and download them.
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
    /// An API key, where the server asks for one. Better in the environment: others see the flags of a process.
    #[arg(long, env = "AMALGAM_API_KEY", hide_env_values = true)]
    pub api_key: Option<ApiKeyText>,
    /// Write JSON to standard output, one document a line.
    #[arg(long)]
    pub json: bool,
}

impl ServerUrl {
    pub fn client(&self) -> Result<client::Client, client::ClientError> {
        Ok(client::Client::new(&self.url)?
            .with_key(self.api_key.as_ref().map(|key| key.0.clone()).filter(|key| !key.is_empty())))
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
pub struct ArtifactsArgs {
    /// Id of the job.
    pub job: String,
    /// Download all of it into this directory, which must not exist, or be empty; every SHA-256 is checked.
    #[arg(long)]
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
