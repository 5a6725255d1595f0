//! `amalgam check`: all that can be said without the models, and with those that are here, what their headers say.

use checkpoint::Access;
use engine::{Settings, Sources};
use recipe::{Problem, Recipe, Refusal};
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
    let recipe = Recipe::parse(text, lenient)?;
    let (_, warnings) = engine::check(&recipe)?;
    let elsewhere = Sources::elsewhere(&recipe, &Access::Anywhere);
    if elsewhere.is_empty() {
        let (plan, _) = engine::open_and_plan(&recipe, &Access::Anywhere, &Settings::default())?;
        return Ok((plan.warnings, Vec::new()));
    }
    Sources::open_but(&elsewhere, &recipe, &Access::Anywhere)
        .map_err(|refusal| Refusal { warnings: warnings.clone(), ..refusal })?;
    Ok((warnings, elsewhere.iter().map(|m| m.to_string()).collect()))
}
