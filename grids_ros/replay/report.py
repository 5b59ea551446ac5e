def write_report(summary, results, path, worse):
    path.write_text("todo")
