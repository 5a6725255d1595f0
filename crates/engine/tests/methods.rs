//! Every method through prepare, reduce and combine: against recorded values, against the naive f64 reference over
//! hostile inputs, and against the laws that must hold of it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::sync::{Arc, Mutex};

use checkpoint::Dtype;
use engine::backend::cpu::Cpu;
use engine::backend::{Backend, TensorInputs, TensorOutput};
use engine::kernel::Draws;
use engine::methods::{self, Base, Default, DrawSource, Kind, METHODS, Resolved, Scope, TaskParameters};
use engine::philox::Stream;
use engine::statistic::Statistic;
use engine::{ExecuteError, convert};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use testkit::reference::{self, Task};

const SEED: u64 = 7;

/// Inputs in memory.
struct Memory {
    dtype: Dtype,
    tensors: Vec<Vec<u8>>,
    elements: u64,
}

impl Memory {
    fn new(dtype: Dtype, x: &[Vec<f32>]) -> Memory {
        let encode = |x: &Vec<f32>| {
            let mut bytes = vec![0; x.len() * dtype.bitsize() / 8];
            convert::from_f32(dtype, x, &mut bytes);
            bytes
        };
        Memory { dtype, tensors: x.iter().map(encode).collect(), elements: x[0].len() as u64 }
    }

    /// The inputs as they are after rounding to their dtype.
    fn values(&self) -> Vec<Vec<f64>> {
        let decode = |bytes: &Vec<u8>| {
            let mut values = vec![0.0; self.elements as usize];
            convert::to_f32(self.dtype, bytes, &mut values);
            values.into_iter().map(f64::from).collect()
        };
        self.tensors.iter().map(decode).collect()
    }
}

impl TensorInputs for Memory {
    fn count(&self) -> usize {
        self.tensors.len()
    }

    fn elements(&self) -> u64 {
        self.elements
    }

    fn dtype(&self, _: usize) -> Dtype {
        self.dtype
    }

    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let start = at as usize * self.dtype.bitsize() / 8;
        buffer.copy_from_slice(&self.tensors[input][start..start + buffer.len()]);
        Ok(())
    }
}

/// An f32 output in memory.
struct Written(Mutex<Vec<u8>>);

impl TensorOutput for Written {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.0.lock().unwrap()[at as usize * 4..at as usize * 4 + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn not_finite(&self, _: u64) -> Result<(), ExecuteError> {
        Ok(())
    }
}

type Setting = (&'static str, Resolved);

/// Parameters of a task: defaults, then what is set for all and for each.
fn parameters(
    method: &str,
    shape: &[u64],
    inputs: usize,
    base: Option<usize>,
    shared: &[Setting],
    each: &[Vec<Setting>],
) -> TaskParameters {
    let about = methods::find(method).unwrap().about();
    let mut p = TaskParameters {
        draws: DrawSource::Philox { seed: SEED, tensor: "tensor".into() },
        shape: shape.to_vec(),
        depth: Some(0.25),
        inputs,
        base,
        shared: Arc::default(),
        each: vec![Arc::default(); inputs],
    };
    for parameter in &about.parameters {
        let default = match parameter.default {
            Default::Number(n) | Default::WhenSetNowhere(n) => Some(Resolved::Number(n)),
            Default::Boolean(b) => Some(Resolved::Boolean(b)),
            Default::Word(w) => Some(Resolved::Word(w)),
            Default::Required => Some(Resolved::Number(0.5)),
            Default::Absent => None,
        };
        let Some(default) = default else { continue };
        match parameter.scope {
            Scope::Shared => {
                Arc::make_mut(&mut p.shared).insert(parameter.name, default);
            }
            Scope::EachInput => p.each.iter_mut().for_each(|e| {
                Arc::make_mut(e).insert(parameter.name, default);
            }),
            Scope::EachInputButBase => {
                p.each.iter_mut().enumerate().filter(|(i, _)| base != Some(*i)).for_each(|(_, e)| {
                    Arc::make_mut(e).insert(parameter.name, default);
                });
            }
        }
    }
    Arc::make_mut(&mut p.shared).extend(shared.iter().copied());
    for (level, settings) in p.each.iter_mut().zip(each) {
        Arc::make_mut(level).extend(settings.iter().copied());
    }
    p
}

fn run_on(cpu: &Cpu, method: &str, p: &TaskParameters, inputs: &Memory) -> Result<Vec<f32>, String> {
    let merge = methods::find(method).unwrap().prepare(p)?;
    let mut known = Vec::new();
    while let Some(statistic) = merge.statistic(&known) {
        known.push(cpu.reduce(&statistic, inputs).unwrap());
    }
    let written = Written(Mutex::new(vec![0; inputs.elements as usize * 4]));
    cpu.combine(merge.kernel(&known, 0)?.as_ref(), inputs, &written).unwrap();
    let bytes = written.0.into_inner().unwrap();
    Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn run(method: &str, p: &TaskParameters, inputs: &Memory) -> Vec<f32> {
    run_on(&Cpu::with_spans(1, 2048), method, p, inputs).unwrap()
}

fn reference_of(method: &str, p: &TaskParameters, inputs: &Memory) -> reference::Merged {
    reference_at(method, p, &inputs.values())
}

/// How far each element moves when the inputs move by a few roundings of f32: the condition of the problem itself, which
/// no f32 computation can better.
fn sensitivity(method: &str, p: &TaskParameters, inputs: &Memory, truth: &[f64]) -> Vec<f64> {
    let mut moved = vec![0.0f64; truth.len()];
    for round in 0..16u64 {
        let mut values = inputs.values();
        for (i, x) in values.iter_mut().enumerate() {
            let signs = Stream::new(round, "signs", i as u32);
            x.iter_mut()
                .enumerate()
                .for_each(|(e, v)| *v *= 1.0 + (f64::from(signs.uniform(e as u64)) - 0.5) * 2f64.powi(-20));
        }
        let other = reference_at(method, p, &values);
        for ((m, a), b) in moved.iter_mut().zip(truth).zip(other.values) {
            *m = m.max(if b.is_finite() { (a - b).abs() } else { f64::INFINITY });
        }
    }
    moved
}

fn reference_at(method: &str, p: &TaskParameters, values: &[Vec<f64>]) -> reference::Merged {
    let x: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    let draws = |input: usize, e: u64| f64::from(Stream::new(SEED, "tensor", input as u32).uniform(e));
    let parameters = serde_json::to_value(p).unwrap();
    reference::merge(&Task { method, parameters: &parameters, x: &x, draws: &draws })
}

const B: [f32; 8] = [0.10, -0.20, 0.30, 0.05, -0.40, 0.25, 0.00, 0.15];
const A: [f32; 8] = [0.16, -0.26, 0.29, 0.15, -0.35, 0.20, 0.08, 0.12];
const C: [f32; 8] = [0.07, -0.15, 0.42, 0.02, -0.52, 0.31, 0.05, 0.22];

/// The generator that mergekit draws masks from on a CPU; only here, to show that the methods are the same and only the
/// generator differs. Matsumoto and Nishimura 1998, MT19937, `init_genrand`.
fn mt19937(seed: u32, count: usize) -> Vec<f32> {
    let mut state = vec![seed];
    for i in 1..624u32 {
        let last = state[i as usize - 1];
        state.push(1_812_433_253u32.wrapping_mul(last ^ last >> 30).wrapping_add(i));
    }
    let mut at = 624;
    let mut next = || {
        if at == 624 {
            for i in 0..624 {
                let y = state[i] & 0x8000_0000 | state[(i + 1) % 624] & 0x7fff_ffff;
                state[i] = state[(i + 397) % 624] ^ y >> 1 ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            }
            at = 0;
        }
        let mut y = state[at];
        at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    };
    (0..count).map(|_| (next() & 0xff_ffff) as f32 / (1u32 << 24) as f32).collect()
}

struct Micro {
    method: &'static str,
    /// Letters of the inputs, the base marked by a star.
    inputs: &'static str,
    shared: Vec<Setting>,
    /// Of the inputs but the base, in order.
    each: Vec<Vec<Setting>>,
    expected: [f32; 8],
}

fn number(name: &'static str, n: f64) -> Setting {
    (name, Resolved::Number(n))
}

fn flag(name: &'static str, b: bool) -> Setting {
    (name, Resolved::Boolean(b))
}

fn weights(name: &'static str, values: &[f64]) -> Vec<Vec<Setting>> {
    values.iter().map(|w| vec![number(name, *w)]).collect()
}

fn with(each: Vec<Vec<Setting>>, more: &[Setting]) -> Vec<Vec<Setting>> {
    each.into_iter().map(|settings| settings.into_iter().chain(more.iter().copied()).collect()).collect()
}

/// Values recorded from mergekit 0.1.5, f32 on a CPU, seed 42 where numbers are drawn.
fn micro_vectors() -> Vec<Micro> {
    let case = |method, inputs, shared: &[Setting], each: Vec<Vec<Setting>>, expected| Micro {
        method,
        inputs,
        shared: shared.to_vec(),
        each,
        expected,
    };
    let w = |values: &[f64]| weights("weight", values);
    let half = [number("density", 0.5)];
    let band = [number("density", 0.5), number("gamma", 0.25)];
    vec![
        case(
            "linear",
            "AC",
            &[],
            w(&[0.6, 0.3]),
            [0.13, -0.2233333, 0.3333333, 0.1066667, -0.4066666, 0.2366667, 0.07, 0.1533333],
        ),
        case(
            "linear",
            "AC",
            &[flag("normalize", false)],
            w(&[0.6, 0.3]),
            [0.117, -0.201, 0.3, 0.096, -0.366, 0.213, 0.063, 0.138],
        ),
        case(
            "slerp",
            "A*C",
            &[number("t", 0.3)],
            vec![],
            [0.1350687, -0.2306309, 0.3349265, 0.1126006, -0.40825, 0.2372384, 0.07214577, 0.1527955],
        ),
        case(
            "nuslerp",
            "AC",
            &[],
            w(&[0.7, 0.3]),
            [0.1350687, -0.2306309, 0.3349265, 0.1126006, -0.40825, 0.2372384, 0.07214577, 0.1527955],
        ),
        case(
            "nuslerp",
            "AC",
            &[flag("nuslerp_flatten", false)],
            w(&[0.7, 0.3]),
            [0.1365684, -0.2332638, 0.3392291, 0.1137599, -0.4017108, 0.2334155, 0.0711124, 0.150274],
        ),
        case(
            "nuslerp",
            "AC",
            &[flag("nuslerp_flatten", false), flag("nuslerp_row_wise", true)],
            w(&[0.7, 0.3]),
            [0.1341148, -0.2319133, 0.3298276, 0.1177954, -0.4049053, 0.2387368, 0.07116008, 0.161927],
        ),
        case(
            "nuslerp",
            "ACB*",
            &[],
            w(&[0.7, 0.3]),
            [0.1470984, -0.2343038, 0.3657192, 0.1412919, -0.4215257, 0.2331419, 0.1203735, 0.1616359],
        ),
        case(
            "multislerp",
            "AC",
            &[],
            w(&[0.6, 0.4]),
            [0.1334601, -0.2297495, 0.3460205, 0.108912, -0.4222656, 0.2458618, 0.07205839, 0.1595946],
        ),
        case(
            "multislerp",
            "ACB*",
            &[],
            w(&[0.6, 0.4]),
            [0.1514723, -0.2385807, 0.3655479, 0.1486787, -0.4183415, 0.2296667, 0.1266419, 0.1597157],
        ),
        case(
            "karcher",
            "ACB",
            &[],
            vec![],
            [0.1163701, -0.2133791, 0.3396326, 0.07980423, -0.4276095, 0.2559376, 0.04422265, 0.1634446],
        ),
        case("task_arithmetic", "ACB*", &[], w(&[0.6, 0.4]), [0.124, -0.216, 0.342, 0.098, -0.418, 0.244, 0.068, 0.16]),
        case(
            "task_arithmetic",
            "ACB*",
            &[number("lambda", 0.5), flag("normalize", true)],
            w(&[0.6, 0.2]),
            [0.11875, -0.21625, 0.31125, 0.08375, -0.39625, 0.23875, 0.03625, 0.1475],
        ),
        case("ties", "ACB*", &[], with(w(&[0.6, 0.4]), &half), [0.16, -0.26, 0.42, 0.15, -0.52, 0.31, 0.08, 0.22]),
        case(
            "ties",
            "ACB*",
            &[flag("normalize", false)],
            w(&[1.0, -0.5]),
            [0.175, -0.285, 0.23, 0.165, -0.29, 0.17, 0.08, 0.085],
        ),
        case(
            "breadcrumbs",
            "ACB*",
            &[],
            with(w(&[0.6, 0.4]), &band),
            [0.136, -0.216, 0.3, 0.05, -0.37, 0.244, 0.02, 0.178],
        ),
        case(
            "breadcrumbs_ties",
            "ACB*",
            &[],
            with(w(&[0.6, 0.4]), &band),
            [0.136, -0.236, 0.3, 0.05, -0.37, 0.22, 0.02, 0.178],
        ),
        case(
            "dare_linear",
            "ACB*",
            &[],
            with(w(&[0.6, 0.4]), &half),
            [0.1, -0.1116667, 0.2811428, 0.05, -0.3057143, 0.25, 0.1508571, 0.2736667],
        ),
        case(
            "dare_ties",
            "ACB*",
            &[("rescale", Resolved::Word("none"))],
            with(w(&[0.6, 0.4]), &half),
            [0.1, -0.18, 0.294, 0.05, -0.37, 0.25, 0.048, 0.178],
        ),
        case(
            "della",
            "ACB*",
            &[],
            with(w(&[0.6, 0.4]), &[number("density", 0.5), number("epsilon", 0.2)]),
            [0.1, 0.02083333, 0.3, 0.05, -0.2307692, 0.25, 0.2707692, 0.4591667],
        ),
        case("sce", "ACB*", &[number("select_topk", 0.5)], vec![], [0.1, -0.2, 0.42, 0.15, -0.52, 0.31, 0.0, 0.15]),
        case("sce", "ACB*", &[], vec![], [0.16, -0.26, 0.42, 0.15, -0.52, 0.31, 0.06204885, 0.22]),
        case(
            "ram",
            "ACB*",
            &[number("epsilon", 0.045)],
            vec![],
            [0.16, -0.205, 0.42, 0.15, -0.435, 0.255, 0.065, 0.22],
        ),
        case(
            "ramplus_tl",
            "ACB*",
            &[number("epsilon", 0.045)],
            vec![],
            [0.1612, -0.205, 0.4224, 0.152, -0.435, 0.255, 0.065, 0.2214],
        ),
        case(
            "model_stock",
            "ACB*",
            &[],
            vec![],
            [0.07588589, -0.191962, 0.2115816, -0.006266281, -0.3437337, 0.241962, -0.1044945, 0.1178479],
        ),
        case(
            "model_stock",
            "ACB*",
            &[flag("filter_wise", true)],
            vec![],
            [0.06995456, -0.1899849, 0.1898333, -0.02010611, -0.3530042, 0.2432863, -0.08727798, 0.1231453],
        ),
        case("nearswap", "A*C", &[number("t", 0.02)], vec![], [0.14, -0.24, 0.31, 0.13, -0.37, 0.22, 0.06, 0.14]),
        case("arcee_fusion", "B*A", &[], vec![], [0.1, -0.2, 0.3, 0.15, -0.4, 0.25, 0.0, 0.15]),
        case(
            "passthrough",
            "A",
            &[],
            vec![vec![number("scale", 0.5)]],
            [0.08, -0.13, 0.145, 0.075, -0.175, 0.1, 0.04, 0.06],
        ),
    ]
}

#[test]
fn values_recorded_from_mergekit_come_out() {
    for micro in micro_vectors() {
        let letters: Vec<char> = micro.inputs.chars().filter(|c| *c != '*').collect();
        let base = micro.inputs.find('*').map(|at| at - 1);
        let x: Vec<Vec<f32>> = letters
            .iter()
            .map(|l| {
                match l {
                    'A' => A,
                    'B' => B,
                    _ => C,
                }
                .to_vec()
            })
            .collect();
        let mut each = micro.each.clone();
        if let Some(base) = base {
            each.insert(base.min(each.len()), Vec::new());
        }
        let mut p = parameters(micro.method, &[2, 4], x.len(), base, &micro.shared, &each);
        let draws: Arc<[f32]> = mt19937(42, 64).into();
        // drawn one model after the other, the base not counted
        p.draws = DrawSource::Given(Arc::new(move |input| {
            let draws = draws.clone();
            let first = 8 * if base.is_some_and(|b| input > b) { input - 1 } else { input };
            Draws::Given(Arc::new(move |e| draws[first + e as usize]))
        }));
        let out = run(micro.method, &p, &Memory::new(Dtype::F32, &x));
        for (e, (ours, expected)) in out.iter().zip(micro.expected).enumerate() {
            assert!(
                (ours - expected).abs() <= 1e-6,
                "{} {} {:?} [{e}]: {out:?} against {:?}",
                micro.method,
                micro.inputs,
                micro.shared,
                micro.expected
            );
        }
    }
}

/// Values that numeric code trips over.
fn hostile() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => (-4i32..4).prop_map(|n| n as f32 * 0.25),
        1 => prop_oneof![Just(1e-41f32), Just(-3e-39), Just(1e-20), Just(-1e-20)],
        1 => -1e4f32..1e4,
    ]
}

#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    dtype: Dtype,
    shape: Vec<u64>,
    x: Vec<Vec<f32>>,
    base: Option<usize>,
    shared: Vec<Setting>,
    each: Vec<Vec<Setting>>,
}

fn settings_of(method: &'static str, scope_shared: bool) -> impl Strategy<Value = Vec<Setting>> {
    let about = methods::find(method).unwrap().about();
    let each: Vec<BoxedStrategy<Option<Setting>>> = about
        .parameters
        .iter()
        .filter(|p| (p.scope == Scope::Shared) == scope_shared)
        .map(|p| {
            let name = p.name;
            let value: BoxedStrategy<Resolved> = match p.kind {
                Kind::Boolean => any::<bool>().prop_map(Resolved::Boolean).boxed(),
                Kind::Word(words) => proptest::sample::select(words).prop_map(Resolved::Word).boxed(),
                Kind::Count => (0u32..4).prop_map(|n| Resolved::Number(f64::from(n))).boxed(),
                Kind::Number => match name {
                    "density" => (0.2f64..0.8).prop_map(Resolved::Number).boxed(),
                    "epsilon" if method.starts_with("della") => Just(Resolved::Number(0.15)).boxed(),
                    "epsilon" | "tol" | "eps" | "clamp" => Just(match p.default {
                        Default::Number(n) => Resolved::Number(n),
                        _ => Resolved::Number(1e-5),
                    })
                    .boxed(),
                    _ => (0.05f64..1.2).prop_map(Resolved::Number).boxed(),
                },
            };
            proptest::option::weighted(0.6, value).prop_map(move |v| v.map(|v| (name, v))).boxed()
        })
        .collect();
    each.prop_map(|settings| settings.into_iter().flatten().collect())
}

fn case() -> impl Strategy<Value = Case> {
    let method = proptest::sample::select(METHODS.iter().map(|m| m.about().name).collect::<Vec<_>>());
    method.prop_flat_map(|method| {
        let inputs = methods::find(method).unwrap().about().inputs;
        let optional = inputs.base == Base::Optional;
        let most = inputs.max.unwrap_or(4).max(inputs.min);
        let count = (inputs.min.max(1)..=most, any::<bool>());
        let shape = prop_oneof![
            (1u64..40).prop_map(|n| vec![n]),
            (1u64..12, 1u64..12).prop_map(|(a, b)| vec![a, b]),
            (1u64..4, 1u64..4, 1u64..4).prop_map(|(a, b, c)| vec![a, b, c])
        ];
        let dtype = proptest::sample::select(vec![Dtype::F32, Dtype::BF16, Dtype::F16]);
        (count, shape, dtype).prop_flat_map(move |((count, with_base), shape, dtype)| {
            let base = match inputs.base {
                Base::Ordinary => None,
                Base::Optional => with_base.then_some(count),
                Base::Required | Base::FirstByDefault => Some(0),
            };
            let count = count + usize::from(optional && with_base);
            let elements = shape.iter().product::<u64>() as usize;
            let x = proptest::collection::vec(proptest::collection::vec(hostile(), elements), count);
            let each = proptest::collection::vec(settings_of(method, false), count);
            (x, settings_of(method, true), each).prop_map(move |(x, shared, mut each)| {
                if let Some(base) = base {
                    // per-input parameters but the base's are never asked of it
                    each[base].retain(|(name, _)| *name == "scale");
                }
                Case { method, dtype, shape: shape.clone(), x, base, shared, each }
            })
        })
    })
}

/// Whether the inputs' directions all but cancel: their mean on the sphere is then no question that f32 can answer.
fn directions_cancel(case: &Case, values: &[Vec<f64>]) -> bool {
    if !["multislerp", "karcher"].contains(&case.method) {
        return false;
    }
    let mut mean = vec![0.0; values[0].len()];
    let mut sum = 0.0;
    for (i, x) in values.iter().enumerate().filter(|(i, _)| Some(*i) != case.base) {
        let delta: Vec<f64> = x.iter().enumerate().map(|(e, v)| v - case.base.map_or(0.0, |b| values[b][e])).collect();
        let norm = delta.iter().map(|d| d * d).sum::<f64>().sqrt();
        let weight = case.each[i]
            .iter()
            .find_map(|s| if let ("weight", Resolved::Number(w)) = s { Some(*w) } else { None })
            .unwrap_or(0.5);
        sum += weight;
        mean.iter_mut().zip(delta).for_each(|(m, d)| *m += weight * d / norm.max(f64::MIN_POSITIVE));
    }
    mean.iter().map(|m| m * m).sum::<f64>().sqrt() < 0.01 * sum
}

proptest! {
    // the same cases every time, so that a failure is a change of the code; PROPTEST_CASES and PROPTEST_RNG_SEED try others
    #![proptest_config(ProptestConfig { cases: 1500, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Each element is what the formula gives in f64, up to f32 arithmetic on what took part in it.
    #[test]
    fn every_method_is_its_formula(case in case()) {
        let inputs = Memory::new(case.dtype, &case.x);
        let p = parameters(case.method, &case.shape, case.x.len(), case.base, &case.shared, &case.each);
        let Ok(out) = run_on(&Cpu::with_spans(1, 2048), case.method, &p, &inputs) else { return Ok(()) };
        let truth = reference_of(case.method, &p, &inputs);
        let values = inputs.values();
        let sensitivity = sensitivity(case.method, &p, &inputs, &truth.values);
        prop_assume!(truth.values.iter().all(|v| v.is_finite()) && !directions_cancel(&case, &values));
        for (e, ours) in out.iter().enumerate() {
            let taking_part: f64 = values.iter().map(|x| x[e].abs()).sum();
            let rounding = 16.0 * 2f64.powi(-24) * (taking_part + truth.values[e].abs());
            let allowed = rounding + 16.0 * sensitivity[e] + truth.unsure * taking_part + 1e-30;
            let decided = !truth.ties[e] && truth.margins[e] > 2f64.powi(-18);
            let off = (f64::from(*ours) - truth.values[e]).abs();
            prop_assert!(!decided || off <= allowed, "{} [{e}]: {ours:e} is {off:e} from {:e}, allowed {allowed:e}", case.method, truth.values[e]);
        }
    }

    /// The same bits for any span and any tile.
    #[test]
    fn bits_do_not_depend_on_tiles(case in case(), tile in 1usize..2048) {
        let inputs = Memory::new(case.dtype, &case.x);
        let p = parameters(case.method, &case.shape, case.x.len(), case.base, &case.shared, &case.each);
        let one = run_on(&Cpu::with_spans(1, 2048), case.method, &p, &inputs);
        let other = run_on(&Cpu::with_spans(3, tile), case.method, &p, &inputs);
        let bits = |r: Result<Vec<f32>, String>| r.map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        prop_assert_eq!(bits(one), bits(other), "{}", case.method);
    }
}

/// The same bits also where a tensor has several blocks, so that statistics are put together from spans.
#[test]
fn bits_do_not_depend_on_spans() {
    const SHAPE: [u64; 2] = [301, 523];
    let x: Vec<Vec<f32>> = (0..3).map(|seed| noise(seed, 301 * 523)).collect();
    for about in METHODS.iter().map(|m| m.about()) {
        let count = about.inputs.max.unwrap_or(3).max(about.inputs.min).min(3);
        let base = matches!(about.inputs.base, Base::Required | Base::FirstByDefault).then_some(0);
        let p = parameters(about.name, &SHAPE, count, base, &[], &[]);
        let inputs = Memory::new(Dtype::F32, &x[..count]);
        let one = run_on(&Cpu::with_spans(1, 2048), about.name, &p, &inputs).unwrap();
        let other = run_on(&Cpu::with_spans(3, 999), about.name, &p, &inputs).unwrap();
        assert!(one.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", about.name);
    }
}

fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    Stream::new(seed, "noise", 0).fill(0, &mut out);
    out.iter_mut().for_each(|v| *v = *v * 2.0 - 1.0);
    out
}

#[test]
fn full_density_is_task_arithmetic() {
    let inputs = Memory::new(Dtype::F32, &[noise(1, 400), noise(2, 400), noise(3, 400)]);
    let each = with(weights("weight", &[0.4, 0.3]), &[]);
    let each = [each[0].clone(), each[1].clone(), Vec::new()];
    let plain = run("task_arithmetic", &parameters("task_arithmetic", &[20, 20], 3, Some(2), &[], &each), &inputs);
    for method in ["dare_linear", "della_linear", "breadcrumbs"] {
        let same = run(method, &parameters(method, &[20, 20], 3, Some(2), &[], &each), &inputs);
        assert_eq!(same, plain, "{method}");
    }
}

#[test]
fn equal_models_give_that_model() {
    let x = noise(1, 300);
    for about in METHODS.iter().map(|m| m.about()) {
        let count = about.inputs.max.unwrap_or(3).max(about.inputs.min).min(3);
        let base = matches!(about.inputs.base, Base::Required | Base::FirstByDefault).then_some(0);
        let inputs = Memory::new(Dtype::F32, &vec![x.clone(); count]);
        let out = run(about.name, &parameters(about.name, &[10, 30], count, base, &[], &[]), &inputs);
        for (a, b) in out.iter().zip(&x) {
            assert!((a - b).abs() <= 1e-6, "{}: {a} against {b}", about.name);
        }
    }
}

#[test]
fn slerp_at_its_ends_gives_its_inputs() {
    let inputs = Memory::new(Dtype::F32, &[noise(1, 300), noise(2, 300)]);
    for (t, input) in [(0.0, 0), (1.0, 1)] {
        let out = run("slerp", &parameters("slerp", &[300], 2, Some(0), &[number("t", t)], &[]), &inputs);
        let expected = if input == 0 { noise(1, 300) } else { noise(2, 300) };
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn the_order_of_inputs_does_not_matter_where_they_are_equals() {
    let x = [noise(1, 256), noise(2, 256), noise(3, 256)];
    let other = [x[2].clone(), x[0].clone(), x[1].clone()];
    for method in ["linear", "multislerp", "karcher"] {
        let p = parameters(method, &[16, 16], 3, None, &[], &[]);
        let (a, b) = (run(method, &p, &Memory::new(Dtype::F32, &x)), run(method, &p, &Memory::new(Dtype::F32, &other)));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{method}");
    }
    for method in
        ["ties", "task_arithmetic", "sce", "ram", "model_stock", "breadcrumbs", "consensus_task_arithmetic", "pcb"]
    {
        let with_base =
            |x: &[Vec<f32>; 3]| Memory::new(Dtype::F32, &[noise(9, 256), x[0].clone(), x[1].clone(), x[2].clone()]);
        let p = parameters(method, &[16, 16], 4, Some(0), &[], &[]);
        let (a, b) = (run(method, &p, &with_base(&x)), run(method, &p, &with_base(&other)));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{method}");
    }
}

/// What is dropped at random is dropped with its probability, and the unbiased rescale keeps the mean.
#[test]
fn random_masks_keep_what_they_promise() {
    const N: usize = 200_000;
    let inputs = Memory::new(Dtype::F32, &[vec![1.0; N], vec![0.0; N]]);
    for density in [0.1, 0.5, 0.9] {
        let each = [vec![number("weight", 1.0), number("density", density)], Vec::new()];
        let p = parameters("dare_linear", &[N as u64], 2, Some(1), &[("rescale", Resolved::Word("expected"))], &each);
        let out = run("dare_linear", &p, &inputs);
        let kept = out.iter().filter(|v| **v != 0.0).count() as f64 / N as f64;
        let deviation = (density * (1.0 - density) / N as f64).sqrt();
        assert!((kept - density).abs() < 5.0 * deviation, "{density}: {kept}");
        let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / N as f64;
        assert!((mean - 1.0).abs() < 5.0 * deviation / density, "{density}: mean {mean}");
    }
    let other = parameters(
        "dare_linear",
        &[N as u64],
        2,
        Some(1),
        &[],
        &[vec![number("weight", 1.0), number("density", 0.5)], Vec::new()],
    );
    let again =
        TaskParameters { draws: DrawSource::Philox { seed: SEED + 1, tensor: "tensor".into() }, ..other.clone() };
    assert_ne!(run("dare_linear", &other, &inputs), run("dare_linear", &again, &inputs));
}

#[test]
fn rows_of_one_column_are_ranked_without_dividing_by_zero() {
    let inputs = Memory::new(Dtype::F32, &[noise(1, 40), noise(2, 40)]);
    for shape in [vec![40, 1], vec![1, 40], vec![10, 1, 4], vec![40]] {
        let each = [vec![number("weight", 1.0), number("density", 0.5)], Vec::new()];
        let out = run("della_linear", &parameters("della_linear", &shape, 2, Some(1), &[], &each), &inputs);
        assert!(out.iter().all(|v| v.is_finite()), "{shape:?}");
    }
}

/// A task of a method with as many inputs as it likes best, all of them alike.
fn alike(method: &str, shape: &[u64], x: Vec<f32>) -> (TaskParameters, Memory) {
    let inputs = methods::find(method).unwrap().about().inputs;
    let count = inputs.max.unwrap_or(3).max(inputs.min).min(3);
    let base = matches!(inputs.base, Base::Required | Base::FirstByDefault).then_some(0);
    (parameters(method, shape, count, base, &[], &[]), Memory::new(Dtype::F32, &vec![x; count]))
}

#[test]
fn tensors_without_elements_and_tensors_of_zeros_are_merged() {
    for method in METHODS.iter().map(|m| m.about().name) {
        for shape in [&[0u64, 4][..], &[4, 0], &[0]] {
            let (p, inputs) = alike(method, shape, Vec::new());
            assert!(run(method, &p, &inputs).is_empty(), "{method}");
        }
        let (p, inputs) = alike(method, &[4, 5], vec![0.0; 20]);
        assert_eq!(run(method, &p, &inputs), vec![0.0; 20], "{method}");
        let (p, inputs) = alike(method, &[], vec![0.5]);
        assert!(run(method, &p, &inputs)[0].is_finite(), "{method}");
    }
}

/// Long enough that a sample brackets the cut; the data are such that brackets hold, hold too much, or miss.
#[test]
fn cuts_of_long_tensors_keep_the_largest_of_the_lowest_indices() {
    const ELEMENTS: usize = 1 << 20;
    let noise = |i: usize| {
        let mixed = (i as u64 ^ 0x51).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 29) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let kinds: [(&str, &dyn Fn(usize) -> f32); 5] = [
        ("smooth", &noise),
        ("coarse", &|i| (noise(i) * 8.0).round()),
        ("mostly zero", &|i| if i % 10 == 3 { noise(i) } else { 0.0 }),
        ("by columns", &|i| noise(i) * (1 + i % 512) as f32),
        ("not a number", &|i| if i % 1000 == 7 { f32::NAN } else { noise(i) }),
    ];
    for (name, value) in kinds {
        let values: Vec<f32> = (0..ELEMENTS).map(value).collect();
        let inputs = Memory::new(Dtype::F32, std::slice::from_ref(&values));
        let magnitude = |i: usize| values[i].to_bits() & 0x7fff_ffff;
        let mut order: Vec<usize> = (0..ELEMENTS).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(magnitude(*i)), *i));
        let counts = [1, 1000, ELEMENTS / 2, ELEMENTS * 9 / 10, ELEMENTS - 1, ELEMENTS];
        let keep: Vec<(usize, u64)> = counts.iter().map(|count| (0, *count as u64)).collect();
        for memory in [1 << 28, 4 << 20, 1 << 16] {
            let statistic = Statistic::Cuts { of: vec![Arc::new(engine::kernel::Scaled(1.0))], keep: keep.clone() };
            let reduced = Cpu::new(memory, 2, 1).reduce(&statistic, &inputs).unwrap();
            for (count, cut) in counts.iter().zip(reduced.cuts()) {
                let cut = cut.from(0);
                let mut kept: Vec<usize> = (0..ELEMENTS).filter(|i| cut.keeps(values[*i], *i)).collect();
                let mut expected = order[..*count].to_vec();
                expected.sort_unstable();
                kept.sort_unstable();
                assert!(kept == expected, "{name}: {count} of them with {memory} bytes: {} are kept", kept.len());
            }
        }
    }
}
