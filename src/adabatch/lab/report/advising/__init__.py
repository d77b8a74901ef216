"""Reports of advice: in words, as tables and charts, as a page; of several together, with the forecasts' coverage."""
