//! Losses with gradients, the reference's own metrics, learning rates.

use candle_core::{DType, Device, Tensor, Var};
use nets::loss::{dice_ce, embedding_mse, lite_segmentation_loss};
use nets::{reference_metrics, schedule};

use crate::fixture::Fixture;

pub(crate) fn losses(fixture: &mut Fixture) {
    let cases = fixture.entry["cases"].as_object().unwrap().clone();
    for (case, shape) in cases {
        let num_cls = shape["num_cls"].as_u64().unwrap() as usize;
        let logits = Var::from_tensor(&fixture.input(&format!("{case}.logits"))).unwrap();
        let target = fixture.input(&format!("{case}.target"));
        let labels = target.to_dtype(DType::U32).unwrap().squeeze(1).unwrap();
        let loss = dice_ce(logits.as_tensor(), &labels).unwrap();
        let total = (&loss.dice + &loss.cross_entropy).unwrap();
        fixture.check(&format!("{case}.dice"), &loss.dice);
        fixture.check(&format!("{case}.ce"), &loss.cross_entropy);
        fixture.check(&format!("{case}.loss"), &total);
        for (output, loss) in [("grad", &total), ("grad_dice_only", &loss.dice)] {
            let gradients = loss.backward().unwrap();
            let gradient = gradients.get(logits.as_tensor()).unwrap();
            fixture.check(&format!("{case}.{output}"), gradient);
        }
        let predicted = logits.as_tensor().argmax(1).unwrap();
        let mean = reference_metrics::dice_coeff_multi_class(&predicted, &labels, num_cls).unwrap();
        fixture.check(&format!("{case}.dice_coeff_multi_class"), &vector(&[mean]));
        let dice = reference_metrics::dice_coeff_per_class(&predicted, &labels, num_cls).unwrap();
        fixture.check(&format!("{case}.dice_coeff_per_class"), &vector(&dice));
        let iou = reference_metrics::iou_per_class(&predicted, &labels, num_cls).unwrap();
        fixture.check(&format!("{case}.iou_per_class"), &vector(&iou));
        if fixture.has_output(&format!("{case}.lite_segmentation_loss")) {
            let channel = logits
                .as_tensor()
                .narrow(1, 1, 1)
                .unwrap()
                .contiguous()
                .unwrap();
            let channel = Var::from_tensor(&channel.detach()).unwrap();
            let loss = lite_segmentation_loss(channel.as_tensor(), &target).unwrap();
            fixture.check(&format!("{case}.lite_segmentation_loss"), &loss);
            let gradients = loss.backward().unwrap();
            let gradient = gradients.get(channel.as_tensor()).unwrap();
            fixture.check(&format!("{case}.lite_segmentation_loss_grad"), gradient);
        }
    }
    for case in fixture.entry["lr_schedule_cases"].as_array().unwrap() {
        let warmup = case["if_warmup"].as_bool().unwrap();
        let warmup = warmup.then(|| case["warmup_period"].as_u64().unwrap());
        let (peak, last) = (
            case["lr"].as_f64().unwrap(),
            case["max_iterations"].as_u64().unwrap(),
        );
        for (step, expected) in (0..).zip(case["lr_used"].as_array().unwrap()) {
            let got = schedule::reference(step, peak, warmup, last);
            assert!(
                (got - expected.as_f64().unwrap()).abs() < 1e-12,
                "step {step}: {got}"
            );
        }
    }
}

pub(crate) fn distillation(fixture: &mut Fixture) {
    let cases: Vec<String> = fixture.entry["cases"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    for case in cases {
        let student = Var::from_tensor(&fixture.input(&format!("{case}.student"))).unwrap();
        let teacher = fixture.input(&format!("{case}.teacher"));
        let loss = embedding_mse(student.as_tensor(), &teacher).unwrap();
        fixture.check(&format!("{case}.mse"), &loss);
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(student.as_tensor()).unwrap();
        fixture.check(&format!("{case}.grad_student"), gradient);
    }
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}
