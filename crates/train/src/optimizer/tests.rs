//! Steps of whole optimisers: against PyTorch, through saving and loading, on the path of other devices.

use candle_core::Device;
use tesseral_testkit::{Random, relative_error};

use super::*;

/// What PyTorch and torch_ema give (`scripts/golden/make_training.py`).
pub(crate) fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/golden/torch.json")).unwrap()
}

fn tensor(x: &[f64], dtype: DType) -> Tensor {
    Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn numbers(x: &serde_json::Value) -> Vec<f64> {
    x.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn bits(state: &[NamedTensor]) -> Vec<(String, Vec<u64>)> {
    let bits = |numbers: &Numbers| match numbers {
        Numbers::F32(x) => x.iter().map(|x| u64::from(x.to_bits())).collect(),
        Numbers::F64(x) => x.iter().map(|x| x.to_bits()).collect(),
        Numbers::I64(x) => x.iter().map(|&x| x as u64).collect(),
    };
    state.iter().map(|t| (t.name.clone(), bits(&t.numbers))).collect()
}

/// The same steps with candle's ops in place of the fused update.
fn on_device(optimizer: &mut Optimizer) {
    let slots = optimizer.rule.slots().len();
    for p in &mut optimizer.parameters {
        p.slots = Slots::on_device(&p.var, slots).unwrap();
    }
}

#[test]
fn steps_of_torch() {
    let golden = golden();
    let cases = golden["optimizers"].as_array().unwrap();
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let dtype = if case["dtype"] == "float32" { DType::F32 } else { DType::F64 };
        for device_path in [false, true] {
            let start = |name: &str| Var::from_tensor(&tensor(&numbers(&case["start"][name]), dtype)).unwrap();
            let variables = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), start(name))));
            let mut optimizer = Optimizer::new(&config, &variables).unwrap();
            if device_path {
                on_device(&mut optimizer);
            }
            for (t, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                let mut gradients = BTreeMap::new();
                for (name, g) in step["gradients"].as_object().unwrap() {
                    if !g.is_null() {
                        gradients.insert(name.clone(), tensor(&numbers(g), dtype));
                    }
                }
                optimizer.set_learning_rate(step["learning_rate"].as_f64().unwrap());
                let norm = gradients::global_norm(&gradients).unwrap();
                optimizer.step(&gradients, gradients::clip_factor(norm, config.largest_norm())).unwrap();
                for (name, var) in &variables {
                    let tolerance = if dtype == DType::F32 { 3e-7 } else { 2e-15 };
                    let error = relative_error(&values(var), &numbers(&step["after"][name]));
                    assert!(error < tolerance, "{} step {t} `{name}` device {device_path}: {error:e}", case["config"]);
                }
            }
        }
    }
    assert!(cases.len() >= 12);
}

fn small(dtypes: [DType; 2]) -> BTreeMap<String, Var> {
    let mut random = Random::new(9);
    let mut var = |name: &str, n, dtype| (name.to_owned(), Var::from_tensor(&tensor(&random.numbers(n), dtype)).unwrap());
    BTreeMap::from([var("layers.0.linear.weight", 7, dtypes[0]), var("readouts.0.linear_1.weight", 3, dtypes[1])])
}

fn random_gradients(variables: &BTreeMap<String, Var>, seed: u64) -> BTreeMap<String, Tensor> {
    let mut random = Random::new(seed);
    variables.iter().map(|(name, v)| (name.clone(), tensor(&random.numbers(v.elem_count()), v.dtype()))).collect()
}

#[test]
fn going_on_from_a_saved_state_is_the_same_to_the_bit() {
    for (kind, amsgrad) in
        [(OptimizerKind::Adam, true), (OptimizerKind::Adam, false), (OptimizerKind::AdamW, true), (OptimizerKind::Sgd, false)]
    {
        let config = OptimizerConfig { kind, amsgrad, weight_decay: 0.1, ..OptimizerConfig::default() };
        let variables = small([DType::F32, DType::F64]);
        let mut optimizer = Optimizer::new(&config, &variables).unwrap();
        (0..3).for_each(|t| optimizer.step(&random_gradients(&variables, t), 1.0).unwrap());
        let (weights, state) = (save_variables(&variables).unwrap(), optimizer.state().unwrap());
        (3..6).for_each(|t| optimizer.step(&random_gradients(&variables, t), 1.0).unwrap());

        let again = small([DType::F32, DType::F64]);
        load_variables(&again, &weights).unwrap();
        let mut resumed = Optimizer::new(&config, &again).unwrap();
        resumed.load_state(&state).unwrap();
        assert_eq!(bits(&resumed.state().unwrap()), bits(&state));
        (3..6).for_each(|t| resumed.step(&random_gradients(&again, t), 1.0).unwrap());
        assert_eq!(bits(&save_variables(&again).unwrap()), bits(&save_variables(&variables).unwrap()));
        assert_eq!(bits(&resumed.state().unwrap()), bits(&optimizer.state().unwrap()));
    }
}

#[test]
fn the_state_of_another_device_has_the_same_names_and_loads() {
    let config = OptimizerConfig::default();
    let variables = small([DType::F64, DType::F64]);
    let mut optimizer = Optimizer::new(&config, &variables).unwrap();
    on_device(&mut optimizer);
    optimizer.step(&random_gradients(&variables, 1), 1.0).unwrap();
    let state = optimizer.state().unwrap();
    let mut host = Optimizer::new(&config, &variables).unwrap();
    host.load_state(&state).unwrap();
    assert_eq!(bits(&host.state().unwrap()), bits(&state));
    let mut device = Optimizer::new(&config, &variables).unwrap();
    on_device(&mut device);
    device.load_state(&state).unwrap();
    assert_eq!(bits(&device.state().unwrap()), bits(&state));
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let variables = small([DType::F32, DType::F64]);
    let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &variables).unwrap();
    optimizer.step(&random_gradients(&variables, 1), 1.0).unwrap();
    let good = optimizer.state().unwrap();
    let mut refused = |change: &dyn Fn(&mut Vec<NamedTensor>)| {
        let mut state = good.clone();
        state[0].numbers = Numbers::F32(vec![9.0; 7]);
        change(&mut state);
        let error = optimizer.load_state(&state).unwrap_err();
        assert_eq!(bits(&optimizer.state().unwrap()), bits(&good));
        error
    };
    let last = good.len() - 1;
    let name = good[last].name.clone();
    assert!(matches!(refused(&|s| drop(s.pop())), StateError::Missing { name: n } if n == name));
    assert!(matches!(refused(&|s| s[last].shape = vec![1]), StateError::Shape { .. }));
    assert!(matches!(refused(&|s| s[last].numbers = Numbers::I64(vec![-1])), StateError::Value { value: -1, .. }));
    assert!(matches!(refused(&|s| s[last].numbers = Numbers::F64(vec![1.0])), StateError::Type { found: "f64", expected: "i64", .. }));
    assert!(matches!(refused(&|s| s[1].shape = vec![7, 1]), StateError::Shape { .. }));
    assert!(matches!(refused(&|s| s[1].numbers = Numbers::F64(vec![0.0; 7])), StateError::Type { found: "f64", expected: "f32", .. }));
    let extra = NamedTensor { name: "momentum/x".into(), shape: vec![], numbers: Numbers::F64(vec![0.0]) };
    assert!(matches!(refused(&|s| s.push(extra.clone())), StateError::Unexpected { .. }));
}

#[test]
fn groups_have_their_own_rates() {
    let config = OptimizerConfig {
        kind: OptimizerKind::Sgd,
        momentum: 0.0,
        learning_rate: 0.5,
        weight_decay: 0.25,
        groups: vec![GroupConfig { parameters: vec!["readouts".into()], learning_rate_factor: 0.1, weight_decay: None }],
        ..OptimizerConfig::default()
    };
    let variables = small([DType::F64, DType::F64]);
    let before: Vec<Vec<f64>> = variables.values().map(|v| values(v)).collect();
    let mut optimizer = Optimizer::new(&config, &variables).unwrap();
    let gradients = random_gradients(&variables, 4);
    optimizer.step(&gradients, 1.0).unwrap();
    for (k, (rate, decay)) in [(0.5, 0.25), (0.05, 0.0)].into_iter().enumerate() {
        let g = values(gradients.values().nth(k).unwrap());
        let expected: Vec<f64> = before[k].iter().zip(&g).map(|(w, g)| w - rate * (g + decay * w)).collect();
        assert!(relative_error(&values(variables.values().nth(k).unwrap()), &expected) < 1e-15);
    }
}

#[test]
fn gradients_that_do_not_fit_change_nothing() {
    let variables = small([DType::F32, DType::F64]);
    let before = save_variables(&variables).unwrap();
    let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &variables).unwrap();
    let good = random_gradients(&variables, 1);
    let name = "readouts.0.linear_1.weight";
    let mut gradients = good.clone();
    gradients.insert("scale".into(), tensor(&[1.0], DType::F64));
    assert!(matches!(optimizer.step(&gradients, 1.0), Err(OptimizerError::UnknownGradient { name }) if name == "scale"));
    for wrong in [tensor(&[1.0; 3], DType::F32), tensor(&[1.0; 4], DType::F64)] {
        let mut gradients = good.clone();
        gradients.insert(name.into(), wrong);
        assert!(matches!(optimizer.step(&gradients, 1.0), Err(OptimizerError::Gradient { name: n, .. }) if n == name));
    }
    assert_eq!(save_variables(&variables).unwrap(), before);
    let integers = BTreeMap::from([("n".to_owned(), Var::from_slice(&[1i64], 1, &Device::Cpu).unwrap())]);
    let error = Optimizer::new(&OptimizerConfig::default(), &integers).unwrap_err();
    assert!(matches!(error, OptimizerError::State(StateError::Unsupported { dtype: "i64", .. })));
}

/// Σ h (w − 1)², with its gradients, at the values of the variables.
fn bowl(variables: &BTreeMap<String, Var>) -> (f64, BTreeMap<String, Tensor>) {
    let mut loss = 0.0;
    let mut gradients = BTreeMap::new();
    for (k, (name, var)) in variables.iter().enumerate() {
        let w = values(var);
        let h = |i: usize| 1.0 + 3.0 * k as f64 + i as f64;
        loss += w.iter().enumerate().map(|(i, w)| h(i) * (w - 1.0) * (w - 1.0)).sum::<f64>();
        let g: Vec<f64> = w.iter().enumerate().map(|(i, w)| 2.0 * h(i) * (w - 1.0)).collect();
        gradients.insert(name.clone(), tensor(&g, var.dtype()));
    }
    (loss, gradients)
}

#[test]
fn lbfgs_minimises_and_goes_on() {
    let config = |iterations| OptimizerConfig {
        kind: OptimizerKind::Lbfgs,
        weight_decay: 0.5,
        lbfgs: LbfgsConfig { iterations, ..LbfgsConfig::default() },
        ..OptimizerConfig::default()
    };
    let variables = small([DType::F64, DType::F64]);
    let mut optimizer = Optimizer::new(&config(3), &variables).unwrap();
    let evaluate = |v: &BTreeMap<String, Var>| Ok::<_, OptimizerError>(bowl(v));
    assert!(matches!(optimizer.step(&BTreeMap::new(), 1.0), Err(OptimizerError::NeedsFunction)));
    let first = optimizer.minimize(|| evaluate(&variables)).unwrap();
    assert_eq!(first.end, LbfgsEnd::Iterations);
    let (weights, state) = (save_variables(&variables).unwrap(), optimizer.state().unwrap());
    optimizer.minimize(|| evaluate(&variables)).unwrap();

    let again = small([DType::F64, DType::F64]);
    load_variables(&again, &weights).unwrap();
    let mut resumed = Optimizer::new(&config(3), &again).unwrap();
    resumed.load_state(&state).unwrap();
    resumed.minimize(|| evaluate(&again)).unwrap();
    assert_eq!(bits(&save_variables(&again).unwrap()), bits(&save_variables(&variables).unwrap()));
    assert_eq!(bits(&resumed.state().unwrap()), bits(&optimizer.state().unwrap()));
    assert!(matches!(resumed.load_state(&state[..1]), Err(StateError::Missing { .. })));

    let last = (0..20).map(|_| resumed.minimize(|| evaluate(&again)).unwrap()).find(|r| r.end == LbfgsEnd::Converged).unwrap();
    assert!(last.loss < first.loss);
    // Only the first parameter decays: h (w − 1) + λ w / 2 = 0.
    let expected: Vec<f64> = (0..7).map(|i| 1.0 + f64::from(i)).map(|h| 2.0 * h / (2.0 * h + 0.5)).collect();
    assert!(relative_error(&values(&again["layers.0.linear.weight"]), &expected) < 1e-7);
    assert!(values(&again["readouts.0.linear_1.weight"]).iter().all(|w| (w - 1.0).abs() < 1e-7));
}

#[test]
fn lbfgs_puts_the_parameters_back_after_an_error() {
    let lbfgs = LbfgsConfig { iterations: 20, history: 2, ..LbfgsConfig::default() };
    let config = OptimizerConfig { kind: OptimizerKind::Lbfgs, lbfgs, ..OptimizerConfig::default() };
    let variables = small([DType::F32, DType::F64]);
    let mut optimizer = Optimizer::new(&config, &variables).unwrap();
    for moment in [3, 6, 9] {
        let (before, remembered) = (save_variables(&variables).unwrap(), bits(&optimizer.state().unwrap()));
        let mut calls = 0;
        let result = optimizer.minimize(|| {
            calls += 1;
            if calls == moment { Err(OptimizerError::Loss(f64::INFINITY)) } else { Ok(bowl(&variables)) }
        });
        assert!(matches!(result, Err(OptimizerError::Loss(_))));
        assert_eq!(save_variables(&variables).unwrap(), before);
        assert_eq!(bits(&optimizer.state().unwrap()), remembered);
        // On to somewhere else, with something to remember.
        let few = LbfgsConfig { iterations: 2, ..config.lbfgs.clone() };
        let mut other = Optimizer::new(&OptimizerConfig { lbfgs: few, ..config.clone() }, &variables).unwrap();
        other.load_state(&optimizer.state().unwrap()).unwrap();
        other.minimize(|| Ok::<_, OptimizerError>(bowl(&variables))).unwrap();
        optimizer.load_state(&other.state().unwrap()).unwrap();
    }
    optimizer.forget_curvature();
    assert_eq!(optimizer.state().unwrap()[0].shape[0], 0);
    let before = save_variables(&variables).unwrap();
    let result = optimizer.minimize(|| Ok::<_, OptimizerError>((f64::NAN, BTreeMap::new())));
    assert!(matches!(result, Err(OptimizerError::Loss(x)) if x.is_nan()));
    assert_eq!(save_variables(&variables).unwrap(), before);
    let mut adam = Optimizer::new(&OptimizerConfig::default(), &variables).unwrap();
    assert!(matches!(adam.minimize(|| Ok::<_, OptimizerError>(bowl(&variables))), Err(OptimizerError::NeedsGradients)));
}

#[test]
fn the_interface_of_candle() {
    let start = [0.3f64, -0.7, 1.1];
    let config = OptimizerConfig { kind: OptimizerKind::AdamW, amsgrad: false, ..OptimizerConfig::default() };
    let params = candle_nn::ParamsAdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let (ours, theirs) = (Var::from_tensor(&tensor(&start, DType::F64)).unwrap(), Var::from_tensor(&tensor(&start, DType::F64)).unwrap());
    fn descend<O: candle_nn::Optimizer>(var: &Var, config: O::Config) {
        let mut optimizer = O::new(vec![var.clone()], config).unwrap();
        for _ in 0..5 {
            let loss = var.sqr().unwrap().sqr().unwrap().sum_all().unwrap();
            optimizer.step(&tesseral_ops::autograd::weight_gradients(&loss, &tesseral_ops::autograd::Leaves::default()).unwrap()).unwrap();
        }
    }
    descend::<Optimizer>(&ours, config);
    descend::<candle_nn::AdamW>(&theirs, params);
    assert!(relative_error(&values(&ours), &values(&theirs)) < 1e-14);
    assert!(values(&ours) != start);
}
