"""What is written and read: records, stage results, claims, and files that anybody may have written."""
