"""Where jobs run. Every executor has one interface (`base.Executor`) and passes one suite of tests."""
