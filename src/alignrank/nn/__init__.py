"""Network parts that know no loss."""
