//! `amalgam convert`: safetensors from what torch pickled, with nothing of the pickle run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::{CheckpointError, Conversion, Converted};
use serde_json::json;

use crate::bar::Bar;
use crate::cli::ConvertArgs;
use crate::report::Failure;
use crate::size::Bytes;

pub async fn run(args: ConvertArgs) -> Result<(), Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let mut conversion = tokio::task::spawn_blocking(move || convert(&args, &flag));
    tokio::select! {
        result = &mut conversion => return result.unwrap_or_else(|panic| Err(Failure::failed(panic))),
        () = super::asked_to_stop() => cancel.store(true, Ordering::Relaxed),
    }
    conversion.await.unwrap_or_else(|panic| Err(Failure::failed(panic)))
}

fn convert(args: &ConvertArgs, cancel: &AtomicBool) -> Result<(), Failure> {
    super::merge::check_way(&args.out)?;
    let bar = Bar::new();
    let converted = checkpoint::convert(&Conversion {
        from: &args.model,
        to: &args.out,
        shard_bytes: args.shard_bytes.0,
        on_progress: &|done, total| bar.set("converting", done, total),
        cancel,
    });
    bar.clear();
    tell(args, &converted.map_err(|error| refused(args, &error))?);
    Ok(())
}

/// The file system may do better next time; what the files hold will not.
fn refused(args: &ConvertArgs, error: &CheckpointError) -> Failure {
    let message = format!("{}: {error}", args.model.display());
    match error {
        CheckpointError::Io { .. } | CheckpointError::Cancelled => Failure::failed(message),
        _ => Failure::refused(message),
    }
}

fn tell(args: &ConvertArgs, converted: &Converted) {
    for note in &converted.notes {
        eprintln!("warning: {}: {note}", args.model.display());
    }
    let Converted { tensors, bytes, files, notes } = converted;
    if args.json {
        println!(
            "{}",
            json!({"output": args.out, "tensors": tensors, "bytes": bytes, "files": files, "warnings": notes})
        );
    } else {
        println!("{} written: {tensors} tensors, {} in {} files", args.out.display(), Bytes(*bytes), files.len());
    }
}
