//! The text of a recipe, with its variants and stages, read strictly and leniently, and checked as far as that needs no
//! model.

use checkpoint::Access;
use recipe::{Draft, Recipe, Refusal, limits};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for lenient in [false, true] {
        let checked = Recipe::parse(text, lenient).and_then(|recipe| engine::check(&recipe).map(drop));
        if let Err(refusal) = checked {
            assert_sound(&refusal, text);
        }
        if let Err(refusal) = all_merges(text, lenient) {
            assert_sound(&refusal, text);
        }
    }
}

/// Every merge that the text asks for; each must read back from a text of its own.
fn all_merges(text: &str, lenient: bool) -> Result<(), Refusal> {
    for variant in Draft::from_yaml(text)?.variants()? {
        let stages = variant.stages(lenient)?;
        let checked = engine::check_stages(&stages, &Access::Under(Vec::new()));
        checked.map_err(|refusal| variant.placed(refusal))?;
        let alone = recipe::Stages::parse(&variant.text()?, lenient).expect("what a variant says is a recipe alone");
        assert_eq!(alone.iter().count(), stages.iter().count());
    }
    Ok(())
}

/// A refusal says why, not too often, and points into the text.
fn assert_sound(refusal: &Refusal, text: &str) {
    assert!((1..=limits::PROBLEMS_MAX).contains(&refusal.problems.len()), "{refusal:?}");
    // YAML ends a line at a carriage return too, and a text may lack its last end
    let lines = text.matches(['\n', '\r']).count() as u64 + 1;
    for problem in &refusal.problems {
        assert!(!problem.detail.is_empty(), "{problem:?}");
        assert!(problem.line.is_none_or(|line| u64::from(line) <= lines), "{problem:?}");
    }
}
