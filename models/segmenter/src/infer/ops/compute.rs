//! An operation of ours as tract sees it: f32 tensors in, one f32 tensor out, all of fixed shapes.

use std::fmt::Debug;
use std::sync::Arc;

use tract_onnx::tract_hir::internal::{
    Datum, DatumExt, DimLike, EvalContext, EvalOp, Expansion, InferenceResult, IntoTValue, Op,
    OutletId, Solver, SpecialOps, StaticName, TDim, TValue, TVec, Tensor, TensorProxy, ToDim,
    TractResult, TypedFact, TypedModel, TypedOp, as_op, check_output_arity, ensure, op_as_typed_op,
    op_out_of_plan, tvec,
};

/// What an operation computes; weights are part of it.
pub(crate) trait Compute: Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Shape of the output, or what is wrong with those of the inputs.
    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>, String>;

    /// Multiplications of one run, for profiles.
    fn multiplications(&self, inputs: &[&[usize]]) -> u64;

    /// `inputs` are as long as the shapes say that `output_shape` took, and so is `out`, every value of which is
    /// written: before, it holds anything.
    fn run(&self, inputs: &[Operand], out: &mut [f32]);
}

/// Values and shape of an input.
pub(crate) type Operand<'a> = (&'a [f32], &'a [usize]);

/// A [`Compute`] in a graph.
#[derive(Debug, Clone)]
pub(crate) struct Ours(pub(crate) Arc<dyn Compute>);

impl PartialEq for Ours {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Ours {}

impl Ours {
    fn shape(&self, inputs: &[&[usize]]) -> TractResult<Vec<usize>> {
        let shape = self.0.output_shape(inputs);
        shape.map_err(|problem| {
            tract_onnx::tract_hir::internal::anyhow!("{}: {problem}", self.0.name())
        })
    }

    /// Of inputs whose sides are numbers.
    fn fixed_shape<'a, I: Iterator<Item = &'a TDim>>(
        &self,
        inputs: impl Iterator<Item = I>,
    ) -> TractResult<Vec<usize>> {
        let fixed = |shape: I| shape.map(DimLike::to_usize).collect::<Result<Vec<_>, _>>();
        let shapes: Vec<_> = inputs.map(fixed).collect::<Result<_, _>>()?;
        let shapes: Vec<&[usize]> = shapes.iter().map(|shape| &shape[..]).collect();
        self.shape(&shapes)
    }
}

impl Op for Ours {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Ours {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = self.shape(&shapes)?;
        #[expect(unsafe_code, reason = "zeros would be written over at once")]
        // SAFETY: any bits are an f32, and `run` writes all of them.
        let mut out = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        let plain = inputs.iter().map(|input| input.try_as_plain_ram());
        let plain = plain.collect::<TractResult<TVec<_>>>()?;
        let mut operands = TVec::with_capacity(inputs.len());
        for (plain, shape) in plain.iter().zip(&shapes) {
            operands.push((plain.as_slice::<f32>()?, *shape));
        }
        let mut view = out.try_as_plain_ram_mut()?;
        self.0.run(&operands, view.as_slice_mut::<f32>()?);
        Ok(tvec!(out.into_tvalue()))
    }
}

impl TypedOp for Ours {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        for input in inputs {
            ensure!(
                input.datum_type == f32::datum_type(),
                "{} takes f32",
                self.0.name()
            );
        }
        let shape = self.fixed_shape(inputs.iter().map(|input| input.shape.iter()))?;
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

impl Expansion for Ours {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        for input in inputs {
            solver.equals(&input.datum_type, f32::datum_type())?;
        }
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        let shapes: Vec<_> = inputs.iter().map(|input| &input.shape).collect();
        solver.given_all(shapes, move |solver, shapes| {
            let shape = self.fixed_shape(shapes.iter().map(|shape| shape.iter()))?;
            let shape: TVec<TDim> = shape.iter().map(ToDim::to_dim).collect();
            solver.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}
