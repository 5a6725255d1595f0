//! `amalgam backup`: a copy of the database, whole, while it is in use.

use super::serve::open_store;
use crate::cli::BackupArgs;
use crate::report::Failure;

pub async fn run(args: BackupArgs) -> Result<(), Failure> {
    let config = args.config.resolve()?;
    let file = config.database.strip_prefix("sqlite://").map(std::path::PathBuf::from);
    // opening would make an empty database, and a backup of nothing looks like one of something
    if let Some(missing) = file.filter(|file| !file.is_file()) {
        return Err(Failure::refused(format!("there is no database at {}", missing.display())));
    }
    let store = open_store(&config).await?;
    let copied = store.back_up(&args.to).await;
    store.close().await;
    copied.map_err(Failure::failed)?;
    println!("{} written: a server started with --database sqlite://PATH goes on from it", args.to.display());
    Ok(())
}
