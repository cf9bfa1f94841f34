"""What goes out: judgments read in order, brought to one verdict per item where that is asked, written as rows."""
