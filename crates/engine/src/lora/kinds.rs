//! What can be made of adapters and into adapters, as recipes name it.

use super::mixing::Mixing;
use crate::methods::{About, Base, Cost, Default, Inputs, Kind, Parameter, Scope};

pub(crate) const EXTRACT: &str = "extract_lora";

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
                "experts",
                Kind::Boolean,
                Default::Boolean(false),
                None,
                "decompose each expert, for loaders that hold experts one by one; transformers 5 does not",
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

/// What recipes can make beside models, for documentation.
pub fn adapter_methods() -> Vec<About> {
    std::iter::once(extraction()).chain(MIXINGS.iter().map(|(_, mixing)| mixture_about(*mixing))).collect()
}

/// How adapters may be merged with each other.
pub(crate) const MIXINGS: &[(&str, Mixing)] = &[
    ("linear", Mixing::Linear),
    ("cat", Mixing::Cat),
    ("svd", Mixing::Svd),
    ("ties", Mixing::Ties),
    ("dare_linear", Mixing::DareLinear),
    ("dare_ties", Mixing::DareTies),
    ("magnitude_prune", Mixing::MagnitudePrune),
    ("core_space", Mixing::CoreSpace),
];

const PEFT: &str = "https://huggingface.co/docs/peft/developer_guides/model_merging";

pub(crate) fn mixture(name: &str) -> Option<Mixing> {
    MIXINGS.iter().find(|(known, _)| *known == name).map(|(_, mixing)| *mixing)
}

pub(crate) fn mixture_about(mixing: Mixing) -> About {
    let name = MIXINGS.iter().find(|(_, known)| *known == mixing).map_or("", |(name, _)| *name);
    let (title, formula, source) = told(mixing);
    About {
        name,
        title,
        formula,
        source,
        advice: "adapters of one model are to become one, without touching the model",
        cost: Cost::Elementwise,
        inputs: Inputs { base: Base::Ordinary, min: 1, max: None },
        parameters: parameters(mixing),
    }
}

fn told(mixing: Mixing) -> (&'static str, &'static str, &'static str) {
    match mixing {
        Mixing::Linear => {
            ("Adapters added factor by factor", "A = sum sign(w) sqrt(|w| s) A_i, B = sum sqrt(|w| s) B_i", PEFT)
        }
        Mixing::Cat => ("Adapters side by side", "A = [w s A_i], B = [B_i]: exactly sum w s B_i A_i", PEFT),
        Mixing::Svd => ("The sum of adapters, cut at a rank", "svd_r(sum w s B_i A_i)", PEFT),
        Mixing::Ties => {
            ("TIES of adapters' factors", "largest of each factor, majority sign, mean of those that agree", PEFT)
        }
        Mixing::DareLinear => {
            ("DARE of adapters' factors", "elements drawn by density and divided by it, then added", PEFT)
        }
        Mixing::DareTies => (
            "DARE and TIES of adapters' factors",
            "elements drawn by density and divided by it, majority sign, mean of those that agree",
            PEFT,
        ),
        Mixing::MagnitudePrune => ("Adapters pruned and added", "largest of each factor, then added", PEFT),
        Mixing::CoreSpace => (
            "Adapters merged in their core space",
            "M_i = U^T s B_i A_i V between bases of all; the M_i merged, then U M V^T",
            "https://arxiv.org/abs/2509.17786",
        ),
    }
}

fn parameters(mixing: Mixing) -> Vec<Parameter> {
    let weight = Parameter {
        scope: Scope::EachInput,
        ..of_tensor("weight", Kind::Number, Default::Number(1.0), None, "weight of the adapter's product")
    };
    let density = |default| Parameter {
        scope: Scope::EachInput,
        ..of_tensor("density", Kind::Number, default, Some((0.0, 1.0)), "part of the elements that is kept")
    };
    let majority = of_tensor(
        "majority_sign_method",
        Kind::Word(MAJORITIES),
        Default::Word("total"),
        None,
        "the sign of the sum of the values, or that more of them have",
    );
    let rank = of_tensor(
        "rank",
        Kind::Count,
        Default::Absent,
        Some((1.0, RANK_MAX)),
        "rank of the result; without one the largest of the adapters', or in core space the sum of them",
    );
    let core = of_tensor(
        "core",
        Kind::Word(CORES),
        Default::Word("iso"),
        None,
        "how the small matrices are merged: added, by TIES, or added and made equally long in all directions (Iso-C)",
    );
    let more = match mixing {
        Mixing::Linear | Mixing::Cat => vec![],
        Mixing::Svd => vec![rank],
        Mixing::Ties | Mixing::DareTies => vec![density(Default::Required), majority],
        Mixing::DareLinear | Mixing::MagnitudePrune => vec![density(Default::Required)],
        Mixing::CoreSpace => vec![core, density(Default::Number(1.0)), majority, rank],
    };
    std::iter::once(weight).chain(more).collect()
}

const MAJORITIES: &[&str] = &["total", "frequency"];
const CORES: &[&str] = &["iso", "sum", "ties"];

fn of_tensor(
    name: &'static str,
    kind: Kind,
    default: Default,
    range: Option<(f64, f64)>,
    about: &'static str,
) -> Parameter {
    Parameter { name, kind, scope: Scope::Shared, default, range, about, of_statistics: false }
}
