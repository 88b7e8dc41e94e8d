//! Values of get-methods, between the virtual machine's form and the one that callers see.

use cocoon_chain::{StackInt, StackItem};
use tycho_types::cell::{Cell, CellBuilder, CellSliceParts};
use tycho_types::error::Error;
use tycho_vm::{OwnedCellSlice, RcStackValue, SafeRc, Stack, StackValue, StackValueType};

use super::GetterError;

/// Deepest nesting of tuples that a get-method may take or answer. Lists are nested tuples, one level per element.
pub const MAX_STACK_DEPTH: usize = 256;
/// Most values that a get-method may take or answer, those inside tuples included.
pub const MAX_STACK_ITEMS: usize = 10_000;

/// Counts values against the limits.
#[derive(Default)]
struct Budget {
    items: usize,
}

impl Budget {
    fn take(&mut self, depth: usize) -> Result<(), GetterError> {
        self.items += 1;
        if depth > MAX_STACK_DEPTH || self.items > MAX_STACK_ITEMS {
            return Err(GetterError::StackTooLarge);
        }
        Ok(())
    }
}

/// The arguments for the machine's stack, the first one deepest.
pub(super) fn to_vm(items: &[StackItem]) -> Result<Vec<RcStackValue>, GetterError> {
    let mut budget = Budget::default();
    items.iter().map(|item| item_to_vm(item, 0, &mut budget)).collect()
}

/// What a get-method left on the stack, the deepest value first.
pub(super) fn from_vm(values: &[RcStackValue]) -> Result<Vec<StackItem>, GetterError> {
    let mut budget = Budget::default();
    values.iter().map(|value| item_from_vm(value.as_ref(), 0, &mut budget)).collect()
}

fn item_to_vm(item: &StackItem, depth: usize, budget: &mut Budget) -> Result<RcStackValue, GetterError> {
    budget.take(depth)?;
    Ok(match item {
        StackItem::Null => Stack::make_null(),
        StackItem::Int(number) => SafeRc::new_dyn_value(number.to_big()),
        StackItem::Cell(cell) => SafeRc::new_dyn_value(cell.clone()),
        StackItem::Slice(cell) => {
            SafeRc::new_dyn_value(OwnedCellSlice::from(CellSliceParts::from(cell.clone())))
        }
        StackItem::Tuple(items) => {
            let items: Result<Vec<_>, _> =
                items.iter().map(|item| item_to_vm(item, depth + 1, budget)).collect();
            SafeRc::new_dyn_value(items?)
        }
    })
}

fn item_from_vm(value: &dyn StackValue, depth: usize, budget: &mut Budget) -> Result<StackItem, GetterError> {
    budget.take(depth)?;
    if let Some(number) = value.as_int() {
        return StackInt::from_big(number)
            .map(StackItem::Int)
            .ok_or(GetterError::Unrepresentable("a number"));
    }
    if let Some(cell) = value.as_cell() {
        return Ok(StackItem::Cell(cell.clone()));
    }
    if let Some(slice) = value.as_cell_slice() {
        return Ok(StackItem::Slice(slice_to_cell(slice)?));
    }
    if let Some(builder) = value.as_cell_builder() {
        return Ok(StackItem::Cell(builder.clone().build()?));
    }
    if let Some(items) = value.as_tuple() {
        let items: Result<Vec<_>, _> =
            items.iter().map(|item| item_from_vm(item.as_ref(), depth + 1, budget)).collect();
        return Ok(StackItem::Tuple(items?));
    }
    match StackValueType::from_raw(value.raw_ty()) {
        Some(StackValueType::Null) => Ok(StackItem::Null),
        Some(StackValueType::Cont) => Err(GetterError::Unrepresentable("a continuation")),
        _ => Err(GetterError::Unrepresentable("no number")),
    }
}

fn slice_to_cell(slice: &OwnedCellSlice) -> Result<Cell, Error> {
    let mut builder = CellBuilder::new();
    builder.store_slice(slice.apply())?;
    builder.build()
}
