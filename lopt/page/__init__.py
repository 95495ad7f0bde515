"""What the pages that lopt writes share: the sheet, tables that sort, charts that are read off."""
