"""The planner: forecasts load, staffs groups, decides, tunes, routes. Pure: time and counts are passed in."""
