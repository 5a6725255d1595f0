//! `amalgam check`: all that can be said without the models, and with those that are here, what their headers say.

use checkpoint::Access;
use recipe::{Problem, Refusal, Stages};
use serde_json::json;

use crate::cli::CheckArgs;
use crate::report::{Failure, warn};

pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let checked = check(&text, args.reading.lenient);
    let (warnings, elsewhere) =
        checked.map_err(|refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json))?;
    warn(&args.recipe, &warnings);
    if args.reading.json {
        println!("{}", json!({"ok": true, "errors": [], "warnings": warnings, "models_not_here": elsewhere}));
    } else if elsewhere.is_empty() {
        println!("ok");
    } else {
        println!("ok as far as can be said without the models; not here: {}", elsewhere.join(", "));
    }
    Ok(())
}

fn check(text: &str, lenient: bool) -> Result<(Vec<Problem>, Vec<String>), Refusal> {
    let checked = engine::check_stages(&Stages::parse(text, lenient)?, &Access::Anywhere)?;
    Ok((checked.warnings, checked.elsewhere.iter().map(|m| m.to_string()).collect()))
}
