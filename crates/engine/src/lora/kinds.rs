//! What can be made of adapters and into adapters, as recipes name it.

use crate::methods::{About, Base, Cost, Default, Inputs, Kind, Parameter, Scope};

pub const EXTRACT: &str = "extract_lora";

/// Rank where a recipe names none.
const RANK_BY_DEFAULT: f64 = 128.0;
const RANK_MAX: f64 = adapter::limits::RANK_MAX as f64;

/// Extraction of the difference of two models.
pub(crate) fn extraction() -> About {
    About {
        name: EXTRACT,
        title: "Extract a LoRA adapter",
        formula: "U S V^T = svd(x - base), cut at a rank or at a share of the energy; B = U sqrt(S), A = sqrt(S) V^T",
        source: "https://arxiv.org/abs/0909.4061",
        advice: "a fine-tune is to be carried as a small file; see the captured energy in the manifest",
        cost: Cost::TwoPasses,
        inputs: Inputs { base: Base::Required, min: 2, max: Some(2) },
        parameters: vec![
            of_tensor(
                "rank",
                Kind::Count,
                Default::Number(RANK_BY_DEFAULT),
                Some((0.0, RANK_MAX)),
                "the most that a module gets; 0 leaves it as the base has it",
            ),
            of_tensor(
                "energy",
                Kind::Number,
                Default::Absent,
                Some((0.0, 1.0)),
                "least rank whose product holds this share of the squared difference, within `rank`",
            ),
            of_tensor(
                "max_rank",
                Kind::Count,
                Default::Absent,
                Some((1.0, RANK_MAX)),
                "bound of the rank beside `energy`",
            ),
            of_tensor(
                "embeddings",
                Kind::Boolean,
                Default::Boolean(false),
                None,
                "decompose embeddings and head too, instead of saving them whole",
            ),
            of_tensor(
                "save",
                Kind::Boolean,
                Default::Boolean(true),
                None,
                "save tensors whole that are not decomposed, where they differ",
            ),
        ],
    }
}

fn of_tensor(
    name: &'static str,
    kind: Kind,
    default: Default,
    range: Option<(f64, f64)>,
    about: &'static str,
) -> Parameter {
    Parameter { name, kind, scope: Scope::Shared, default, range, about, of_statistics: false }
}
